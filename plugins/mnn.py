"""MNN: models for phones and other small machines, in one file.

Made from ONNX by MNN's own converter. The weights of convolutions and matrix products can be stored as halves or
as 8-bit integers, and their activations be quantized too, once calibrated.

Source: https://github.com/alibaba/MNN
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from registry_export.entities import Description, Interface, OptionValue, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    ONNX_MODEL,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    Runner,
    precision_option,
    quantization_option,
)
from registry_export_plugins._snippets import each, listed, names_of, sizes, snippet, zeros
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._toolchains import MNN


def from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a copy of an ONNX file."""
    from registry_export_plugins._mnn.convert import convert_onnx

    return convert_onnx(model, output, request)


def _is_static(options: Mapping[str, OptionValue]) -> bool:
    return options.get("precision") == "int8" and options.get("quantization") == "static"


class Mnn(TargetOnly):
    """The format `mnn`; see `registry_export.format.Format` for what its members mean."""

    name = "mnn"
    summary = "MNN model (.mnn)"
    extra = "mnn"
    requirements = ("MNN", "flatbuffers")
    toolchain = MNN
    filename = "model.mnn"
    options = (
        precision_option(
            "fp32", "fp16", "int8", lacks={"bf16": "MNN stores none; its runtime rounds to bf16 where it is told to"}
        ),
        quantization_option("static", "weight_only"),
        DYNAMIC_DIMENSIONS,
    )
    conversions = (
        Conversion(
            ONNX_MODEL,
            from_onnx_model,
            MNN,
            cost=1.0,
            requirements=("onnx", "onnxruntime"),
            calibrates=_is_static,
        ),
    )
    verified_by = "MNN on the CPU, precision high"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a file into MNN."""
        from registry_export_plugins._mnn.runner import MnnRunner

        yield MnnRunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read names, sizes, precision and the version from the file."""
        from registry_export_plugins._mnn.runner import describe

        return describe(path)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show MNN in Python and C++."""
        inputs, outputs = description.interface.inputs, description.interface.outputs
        python = """
            import MNN
            import numpy as np

            model = MNN.nn.load_module_from_file("model.mnn", [«inputs»], [«outputs»])
            outputs = model.forward([
                «zeros»
            ])
        """
        cpp = """
            #include <MNN/expr/Module.hpp>

            using namespace MNN::Express;
            std::unique_ptr<Module> model(Module::load({«inputs»}, {«outputs»}, "model.mnn"));
            auto outputs = model->onForward({
                «zeros»
            });
        """

        def in_python(_: int, __: str, spec: TensorSpec) -> str:
            kind = "float" if spec.dtype.startswith(("float", "bfloat")) else "int"
            array = zeros(spec, f"np.{kind}32")
            return f"MNN.expr.const({array}, {[*sizes(spec)]}, MNN.expr.NCHW, MNN.expr.{kind}),"

        def in_cpp(_: int, __: str, spec: TensorSpec) -> str:
            zero = "0.f" if spec.dtype.startswith(("float", "bfloat")) else "0"
            return f"_Const({zero}, {{{listed(sizes(spec))}}}, NCHW),"

        names = {"inputs": names_of(inputs), "outputs": names_of(outputs)}
        return (
            snippet("Python", "MNN", python, zeros=each(inputs, in_python), **names),
            snippet("C++", "MNN", cpp, zeros=each(inputs, in_cpp), **names),
        )

    def inspect(self, path: Path) -> Inside:
        """Read operators, constants and weights from the file."""
        from registry_export_plugins._mnn.contents import inside

        return inside(path)
