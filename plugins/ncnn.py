"""ncnn: networks for phones and small boards, as a `.param` file with its `.bin` of weights.

Converted by pnnx, which has replaced `onnx2ncnn` and the other converters that ncnn used to bring. It takes a
model traced by TorchScript; an ONNX file is the way where no PyTorch model is at hand. pnnx is made
for one row: the batch is an axis that ncnn keeps apart from a tensor's others, and that its newer
runtimes (since the package of October 2026 at the latest) run at any size. The same file runs one row at a time
on those that have no batch.

Source: https://github.com/Tencent/ncnn, https://github.com/pnnx/pnnx
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    ONNX_MODEL,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    Runner,
    precision_option,
)
from registry_export_plugins._snippets import each, listed, sizes, snippet, without_batch, zeros
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._toolchains import NCNN, ONNX, TORCH

_SLOWER = 6.0
"""The price of the route over ONNX: pnnx recognises fewer of its operators than of PyTorch's."""


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace a PyTorch module and convert the trace."""
    from registry_export_plugins._ncnn.convert import convert_prepared
    from registry_export_plugins._ncnn.sources import from_adapter
    from registry_export_plugins._torch.export import left_out

    return convert_prepared(from_adapter(model, request, left_out(model, request)), output, request)


def from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace a `torch.export` program and convert the trace."""
    from registry_export_plugins._ncnn.convert import convert_prepared
    from registry_export_plugins._ncnn.sources import from_program

    return convert_prepared(from_program(model, request.interface, request), output, request)


def from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace a call of TorchScript, which gives it flat inputs and outputs, and convert that."""
    from registry_export_plugins._ncnn.convert import convert_prepared
    from registry_export_plugins._ncnn.sources import from_adapter
    from registry_export_plugins._torch.modules import adapt

    return convert_prepared(from_adapter(adapt(model, request.interface), request), output, request)


def from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a copy of an ONNX file."""
    from registry_export_plugins._ncnn.convert import convert_prepared
    from registry_export_plugins._ncnn.sources import from_onnx

    return convert_prepared(from_onnx(model, request), output, request)


class Ncnn(TargetOnly):
    """The format `ncnn`; see `registry_export.format.Format` for what its members mean."""

    name = "ncnn"
    summary = "ncnn network (.param and .bin), by pnnx"
    extra = "ncnn"
    requirements = ("ncnn",)
    toolchain = NCNN
    filename = "model.ncnn.param"
    options = (
        precision_option(
            "fp32",
            "fp16",
            lacks={
                "bf16": "ncnn stores none; its runtime rounds to bf16 where use_bf16_storage is on",
                "int8": "ncnn's quantiser is a program of its own, which pip does not install",
            },
        ),
        DYNAMIC_DIMENSIONS,
    )
    conversions = (
        Conversion(TORCH_MODULE, from_torch_module, TORCH, cost=2.0, requirements=("torch", "pnnx")),
        Conversion(TORCHSCRIPT, from_torchscript, TORCH, cost=2.0, requirements=("torch", "pnnx")),
        Conversion(EXPORTED_PROGRAM, from_exported_program, TORCH, cost=2.5, requirements=("torch", "pnnx")),
        Conversion(ONNX_MODEL, from_onnx_model, ONNX, cost=_SLOWER, requirements=("onnx", "onnxruntime", "pnnx")),
    )
    verified_by = "ncnn on the CPU, in fp32 arithmetic"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a network into ncnn; `model.ncnn.json` says which blob is which tensor."""
        from registry_export_plugins._ncnn.runner import NcnnRunner

        yield NcnnRunner(path)

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs, layers and precision from the files."""
        from registry_export_plugins._ncnn.layout import describe

        return describe(path)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show ncnn in Python and, for Android too, C++; the batch is no dimension of a `Mat`."""
        python = """
            import ncnn
            import numpy as np

            net = ncnn.Net()
            net.load_param("model.ncnn.param")
            net.load_model("model.ncnn.bin")
            model = net.create_extractor()
            «inputs»
            «outputs»
        """
        cpp = """
            #include <ncnn/net.h>

            ncnn::Net net;
            net.load_param("model.ncnn.param");
            net.load_model("model.ncnn.bin");
            ncnn::Extractor model = net.create_extractor();
            «inputs»
            «outputs»
        """
        inputs, outputs = description.interface.inputs, description.interface.outputs

        def given(i: int, _: str, spec: TensorSpec) -> str:
            kind = "np.float32" if spec.dtype.startswith(("float", "bfloat")) else "np.int32"
            return f'model.input("in{i}", ncnn.Mat({zeros(without_batch(spec), kind)}))'

        def taken(i: int, name: str, _: TensorSpec) -> str:
            return f'_, {name} = model.extract("out{i}")'

        def given_in_cpp(i: int, name: str, spec: TensorSpec) -> str:
            turned = listed(sizes(without_batch(spec))[::-1])  # width first
            return f'ncnn::Mat {name}({turned});\n{name}.fill(0.f);\nmodel.input("in{i}", {name});'

        def taken_in_cpp(i: int, name: str, _: TensorSpec) -> str:
            return f'ncnn::Mat {name};\nmodel.extract("out{i}", {name});'

        return (
            snippet("Python", "ncnn", python, inputs=each(inputs, given), outputs=each(outputs, taken)),
            snippet("C++", "ncnn", cpp, inputs=each(inputs, given_in_cpp), outputs=each(outputs, taken_in_cpp)),
        )

    def inspect(self, path: Path) -> Inside:
        """Read layers, and weights where the types of all layers are known."""
        from registry_export_plugins._ncnn.contents import inside

        return inside(path)
