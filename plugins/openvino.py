"""OpenVINO IR: an .xml with its weights in a .bin beside it.

ONNX is the main way in. Where that route fails, TensorFlow, Keras and PyTorch models are converted
directly. 8-bit integers come from NNCF.

Sources: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html, https://github.com/openvinotoolkit/nncf
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, OptionValue, RuntimeNeed, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    KERAS_MODEL,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Convert,
    Inside,
    Runner,
    Toolchain,
    precision_option,
    quantization_option,
)
from registry_export_plugins._snippets import cpp_type, each, in_a_row, listed, sizes, snippet
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._toolchains import TENSORFLOW, TORCH, installed, ours

_RUNTIME = ("registry_export_plugins._openvino", *installed("openvino"))
_LATE = (
    *ours("_openvino.convert", "_openvino.quantize", "_openvino.runner", "_openvino.contents", "_compatibility"),
    "openvino._offline_transformations",
    "openvino.tools.ovc.moc_frontend.offline_transformations",
)
OPENVINO = Toolchain(name="openvino", modules=_RUNTIME, late=_LATE)
"""OpenVINO alone, its telemetry left out."""

OPENVINO_NNCF = Toolchain(name="openvino-nncf", modules=(*_RUNTIME, *installed("nncf")), late=_LATE)
"""OpenVINO and its quantiser, which is four times as long to import."""

PRECISION = precision_option(
    "fp32",
    "fp16",
    "int8",
    lacks={"bf16": "it is a setting of OpenVINO's device (INFERENCE_PRECISION_HINT), not of the file"},
)
QUANTIZATION = quantization_option("static", "weight_only")


IR_VERSION = 11
"""What OpenVINO has written since 2022.1."""


def _from_onnx_model(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._openvino.convert import from_onnx

    return from_onnx(model, output, request)


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._openvino.convert import from_torch_module

    return from_torch_module(model, output, request)


def _from_tf_function(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._openvino.convert import from_tf_function

    return from_tf_function(model, output, request)


def _from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._openvino.convert import from_keras_model

    return from_keras_model(model, output, request)


def _is_int8(options: Mapping[str, OptionValue]) -> bool:
    return options.get(PRECISION.name) == "int8"


def _is_static_int8(options: Mapping[str, OptionValue]) -> bool:
    return _is_int8(options) and options.get(QUANTIZATION.name) != "weight_only"


def _floats_only(options: Mapping[str, OptionValue]) -> str:
    return "int8 needs NNCF" if _is_int8(options) else ""


def _integers_only(options: Mapping[str, OptionValue]) -> str:
    return "" if _is_int8(options) else "NNCF serves int8 alone"


def _edges(
    kind: str, function: Convert, cost: float, floats: Toolchain, integers: Toolchain, packages: tuple[str, ...] = ()
) -> tuple[Conversion, Conversion]:
    """One edge for floats, and one for int8, which needs NNCF."""
    return (
        Conversion(kind, function, floats, cost, requirements=packages, accepts=_floats_only),
        Conversion(
            kind,
            function,
            integers,
            cost + 1.0,
            label="nncf",
            requirements=(*packages, "nncf"),
            accepts=_integers_only,
            calibrates=_is_static_int8,
        ),
    )


class OpenVINO(TargetOnly):
    """The format `openvino`; see `registry_export.format.Format` for what its members mean."""

    name = "openvino"
    summary = "OpenVINO IR (.xml and .bin)"
    extra = "openvino"
    requirements = ("openvino",)
    toolchain = OPENVINO
    filename = "model.xml"
    options = (PRECISION, QUANTIZATION, DYNAMIC_DIMENSIONS)
    conversions = (
        *_edges(ONNX_MODEL, _from_onnx_model, 1.0, OPENVINO, OPENVINO_NNCF),
        *_edges(TF_FUNCTION, _from_tf_function, 6.0, TENSORFLOW, TENSORFLOW, ("tensorflow",)),
        *_edges(KERAS_MODEL, _from_keras_model, 6.0, TENSORFLOW, TENSORFLOW, ("tensorflow", "keras")),
        *_edges(TORCH_MODULE, _from_torch_module, 6.0, TORCH, TORCH, ("torch",)),
    )
    verified_by = "OpenVINO on the CPU"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a model into OpenVINO's CPU plugin, in float32."""
        from registry_export_plugins._openvino.runner import OpenVINORunner

        yield OpenVINORunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs, the precision of the weights and the version of the IR."""
        from registry_export_plugins._openvino.runner import describe

        return describe(path)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show OpenVINO in Python and C++."""
        python = """
            import numpy as np
            import openvino

            model = openvino.compile_model("model.xml", "CPU")
            outputs = model([«inputs»])
        """
        cpp = """
            #include <openvino/openvino.hpp>

            ov::Core core;
            auto request = core.compile_model("model.xml", "CPU").create_infer_request();
            «inputs»
            request.infer();
            «outputs»
        """
        inputs, outputs = description.interface.inputs, description.interface.outputs

        def given(i: int, name: str, spec: TensorSpec) -> str:
            kind = f"ov::element::from<{cpp_type(spec)}>()"
            return f"ov::Tensor {name}({kind}, {{{listed(sizes(spec))}}});\nrequest.set_input_tensor({i}, {name});"

        def taken(i: int, name: str, _: TensorSpec) -> str:
            return f"ov::Tensor {name} = request.get_output_tensor({i});"

        return (
            snippet("Python", "OpenVINO", python, inputs=in_a_row(description.interface)),
            snippet("C++", "OpenVINO", cpp, inputs=each(inputs, given), outputs=each(outputs, taken)),
        )

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say which OpenVINO reads the version of the IR and, once the file tells them, the operations."""
        from registry_export_plugins._compatibility import need

        version = IR_VERSION if description is None else int(description.format_version or IR_VERSION)
        opset = 0 if description is None else int(description.details.get("newest opset", 0))
        return (need("openvino", version), *((need("openvino", opset, table="openvino_opset"),) if opset else ()))

    def inspect(self, path: Path) -> Inside:
        """Read constants, operations and what the converter noted."""
        from registry_export_plugins._openvino.contents import inside

        return inside(path)
