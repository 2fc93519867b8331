"""Formats that declare options and do nothing, for tests of what comes before any conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    ONNX_MODEL,
    TORCH_MODULE,
    Conversion,
    ConversionResult,
    Option,
    Runner,
    Toolchain,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from registry_export.entities import Description, Interface


def _convert(model: Any, output: Path, request: Any) -> ConversionResult:
    raise NotImplementedError


class StubFormat:
    name = "stub"
    summary = "A stub"
    extra = "stub"
    requirements: tuple[str, ...] = ()
    toolchain = Toolchain("stub")
    kind = ""
    filename = "model.stub"
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = (Conversion(TORCH_MODULE, _convert, Toolchain("stub")),)
    verified_by = "nobody"

    def locate(self, folder: Path, flavors: Any) -> Path | None:
        return None

    def load(self, path: Path, interface: Interface) -> Any:
        raise NotImplementedError

    def open(self, path: Path, interface: Interface) -> AbstractContextManager[Runner]:
        raise NotImplementedError

    def describe(self, path: Path) -> Description:
        raise NotImplementedError


class Onnx(StubFormat):
    name = "onnx"
    extra = "onnx"
    kind = ONNX_MODEL
    options = (
        Option("opset_version", int, None, "opset{value}", minimum=7, maximum=27),
        Option("optimize", bool, True, "optimize-{value}"),
        DYNAMIC_DIMENSIONS,
    )


class TorchScript(StubFormat):
    name = "torchscript"
    options = (
        Option("method", str, "trace", "{value}", choices=("trace", "script")),
        Option("freeze", bool, False, "frozen"),
    )


class TFLite(StubFormat):
    name = "tflite"
    options = (
        Option("scale", float, 1.0, "scale{value}", minimum=0),
        Option("device", str, None, "{value}"),
        Option("note", str, "", "{value}"),
        Option("chip", str, None, "{value}", pattern=r"sm\d+", form="a chip, as sm89"),
    )


class PyTorch(StubFormat):
    name = "pytorch"
    kind = TORCH_MODULE
    conversions = ()


FORMATS = {format_.name: format_ for format_ in (Onnx(), TorchScript(), TFLite(), PyTorch())}
