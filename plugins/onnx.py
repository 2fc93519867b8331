"""ONNX: from PyTorch, TorchScript, `torch.export` programs, Keras, TensorFlow, and ONNX at another opset.

Source: https://onnx.ai/onnx/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, Description, Interface
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Option,
    Runner,
)
from registry_export_plugins._toolchains import ONNX, TENSORFLOW, TORCH

DEFAULT_OPSET = 20
LOWEST_OPSET = 7
HIGHEST_OPSET = 28
"""The newest that any supported `onnx` knows; the installed one may know fewer, and then says so."""
_LOWEST_TENSORFLOW_OPSET = 9

OPSET_VERSION = Option(
    "opset_version",
    int,
    None,
    "opset{value}",
    minimum=LOWEST_OPSET,
    maximum=HIGHEST_OPSET,
    help=f"opset of the file; {DEFAULT_OPSET} when exporting, an ONNX source keeps its own",
)
OPTIMIZE = Option("optimize", bool, False, "optimized", help="simplify the graph with onnxslim")


def _wanted(request: ConversionRequest) -> int:
    value = request.options.get(OPSET_VERSION.name)
    return value if isinstance(value, int) else DEFAULT_OPSET


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_torch_module

    return from_torch_module(model, output, request, _wanted(request))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_exported_program

    return from_exported_program(model, output, request, _wanted(request))


def _from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._onnx.torch import from_torchscript

    return from_torchscript(model, output, request, _wanted(request))


def _from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._tensorflow.to_onnx import convert_keras

    made = request.work / "converted.onnx"
    result = convert_keras(model, made, max(_wanted(request), _LOWEST_TENSORFLOW_OPSET), request.interface)
    return _finished(made, output, request, result)


def _from_tf_function(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._tensorflow.to_onnx import convert_tf_function

    made = request.work / "converted.onnx"
    result = convert_tf_function(model, made, max(_wanted(request), _LOWEST_TENSORFLOW_OPSET), request.interface)
    return _finished(made, output, request, result)


def _finished(made: Path, output: Path, request: ConversionRequest, result: ConversionResult) -> ConversionResult:
    from registry_export_plugins._onnx.files import finish, read

    finish(read(made), output, request.interface, _wanted(request), bool(request.options.get(OPTIMIZE.name)))
    return result


def _from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Copy the files as they are, or bring the model to another opset and simplify it."""
    from registry_export_plugins._onnx.files import external_files, finish, read

    opset = request.options.get(OPSET_VERSION.name)
    optimize = bool(request.options.get(OPTIMIZE.name))
    if opset is None and not optimize:
        shutil.copyfile(model, output)
        for name in external_files(model):
            target = output.parent / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.parent / name, target)
        return ConversionResult((Attempt("copy"),))
    finish(read(model), output, request.interface, opset if isinstance(opset, int) else None, optimize)
    return ConversionResult((Attempt("onnx"),))


class Onnx:
    """The format `onnx`; see `registry_export.format.Format` for what its members mean."""

    name = "onnx"
    summary = "ONNX model (.onnx)"
    extra = "onnx"
    requirements = ("onnx", "onnxruntime")
    toolchain = ONNX
    kind = ONNX_MODEL
    filename = "model.onnx"
    options = (OPSET_VERSION, OPTIMIZE, DYNAMIC_DIMENSIONS)
    conversions = (
        Conversion(TORCH_MODULE, _from_torch_module, TORCH, cost=2.0, requirements=("torch", "onnxscript")),
        Conversion(EXPORTED_PROGRAM, _from_exported_program, TORCH, cost=1.5, requirements=("torch", "onnxscript")),
        Conversion(TORCHSCRIPT, _from_torchscript, TORCH, cost=1.5, requirements=("torch",)),
        Conversion(KERAS_MODEL, _from_keras_model, TENSORFLOW, cost=1.5, requirements=("tensorflow", "tf2onnx")),
        Conversion(TF_FUNCTION, _from_tf_function, TENSORFLOW, cost=1.5, requirements=("tensorflow", "tf2onnx")),
        Conversion(ONNX_MODEL, _from_onnx_model, ONNX, cost=0.5),
    )
    verified_by = "ONNX Runtime on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the file of the flavor `onnx`, or the only `.onnx` file of a plain folder."""
        if flavors and "onnx" not in flavors:
            return None
        place = folder / str(flavors["onnx"].get("data", self.filename)) if flavors else folder
        if place.is_file():
            return place
        if (place / self.filename).is_file():
            return place / self.filename
        found = sorted(place.glob("*.onnx")) if place.is_dir() else []
        return found[0] if len(found) == 1 else None

    def load(self, path: Path, interface: Interface) -> Path:
        """Return the path: an ONNX model is its file."""
        return path

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a model into ONNX Runtime."""
        from registry_export_plugins._onnx.runner import OnnxRunner

        yield OnnxRunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read opsets, inputs, outputs and precision from the file; its weights stay where they are."""
        from registry_export_plugins._onnx import files
        from registry_export_plugins._onnx.opsets import opset_of

        model = files.read(path, weights=False)
        producer = f"{model.producer_name} {model.producer_version}".strip()
        return Description(
            interface=files.interface_of(model),
            opset_version=opset_of(model),
            opset_imports=files.opset_imports(model),
            ir_version=int(model.ir_version),
            precision=files.precision_of(model),
            details={"producer": producer or "unknown", "nodes": str(files.count_nodes(model))},
        )
