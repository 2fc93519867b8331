"""TensorFlow Lite: the flatbuffer that LiteRT runs.

Three ways lead here. A TensorFlow function is converted with its dynamic sizes; where TensorFlow Lite
cannot express them (recurrent loops over an open batch), again with fewer of them open, each try
recorded. A Keras model is traced first, with its recurrent layers unrolled when a loop is refused.
A PyTorch model can go through litert-torch, which fixes every size. Only built-in operators are
written: a model that would need TensorFlow's own kernels ("Flex") is refused by name.

fp16 and int8 are made of the float file once that is known to be right, by the AI Edge Quantizer;
TensorFlow's own quantizer is a route of its own, tried after it, because it may end its process.

Sources: https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf,
https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, OptionValue, RuntimeNeed, Snippet, TensorSpec
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    KERAS_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Convert,
    Inside,
    Option,
    Runner,
    Toolchain,
    precision_option,
    quantization_option,
)
from registry_export_plugins._snippets import in_lines, item_bytes, listed, quoted, sizes, snippet, zeros
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._tensorflow.functions import TensorFlowFunction
from registry_export_plugins._tensorflow.lite_precision import calibrates, refusal
from registry_export_plugins._tensorflow.names import identifiers
from registry_export_plugins._toolchains import LITERT, TENSORFLOW, TORCH, installed

LITERT_TORCH = Toolchain(
    name="litert_torch",
    # Imported and no more: what it starts (JAX's threads) does not survive the fork into a child.
    modules=("torch", *installed("litert_torch")),
    environment=TORCH.environment,
)
"""PyTorch and its converter to TensorFlow Lite."""

BY_TENSORFLOW = "TensorFlow's quantizer"

SLOWER = 20.0
"""Seconds that litert-torch takes longer, and the price of its fixed sizes: every other route comes first."""

LAST = 25.0
"""The price of TensorFlow's quantizer: what it can do the AI Edge Quantizer mostly has done before."""


def from_tf_function(model: TensorFlowFunction, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a TensorFlow function, with as many open sizes as TensorFlow Lite can express."""
    from registry_export_plugins._tensorflow.lite import convert_function

    return convert_function(model, output, request)


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model, its recurrent layers unrolled where loops are refused."""
    from registry_export_plugins._tensorflow.lite import convert_keras

    return convert_keras(model, output, request)


def from_tf_function_by_tensorflow(
    model: TensorFlowFunction, output: Path, request: ConversionRequest
) -> ConversionResult:
    """Convert a TensorFlow function and let TensorFlow quantize it."""
    from registry_export_plugins._tensorflow.lite import convert_function

    return convert_function(model, output, request, by_tensorflow=True)


def from_keras_model_by_tensorflow(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model and let TensorFlow quantize it."""
    from registry_export_plugins._tensorflow.lite import convert_keras

    return convert_keras(model, output, request, by_tensorflow=True)


def _tensorflow_quantizes(options: Mapping[str, OptionValue]) -> str:
    if options.get("precision") != "int8" or options.get("quantization") == "weight_only":
        return "TensorFlow's quantizer makes static and dynamic int8"
    return refusal(options)


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a PyTorch module with litert-torch, every size fixed to that of the samples."""
    from registry_export_plugins._tensorflow.lite_torch import convert_module

    return convert_module(model, output, request)


def from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert an exported program with litert-torch, every size fixed to that of the samples."""
    from registry_export_plugins._tensorflow.lite_torch import convert_program

    return convert_program(model, output, request)


def _edge(
    kind: str, function: Convert, toolchain: Toolchain, cost: float, label: str, *requirements: str
) -> Conversion:
    return Conversion(
        kind,
        function,
        toolchain,
        cost=cost,
        label=label,
        requirements=(*requirements, "ai_edge_quantizer"),
        accepts=_tensorflow_quantizes if label == BY_TENSORFLOW else refusal,
        calibrates=calibrates,
    )


class TFLite(TargetOnly):
    """The format `tflite`; see `registry_export.format.Format` for what its members mean."""

    name = "tflite"
    summary = "TensorFlow Lite (LiteRT) flatbuffer"
    extra = "tflite"
    requirements = ("ai_edge_litert",)
    toolchain = LITERT
    filename = "model.tflite"
    options = (
        precision_option("fp32", "fp16", "int8", lacks={"bf16": "LiteRT's kernels for the CPU compute in none"}),
        quantization_option("static", "dynamic", "weight_only"),
        Option("integer_io", bool, False, "integer-io", help="integers as inputs and outputs of static int8"),
        DYNAMIC_DIMENSIONS,
    )
    conversions = (
        _edge(KERAS_MODEL, from_keras_model, TENSORFLOW, 1.5, "", "tensorflow", "keras"),
        _edge(TF_FUNCTION, from_tf_function, TENSORFLOW, 1.5, "", "tensorflow"),
        _edge(KERAS_MODEL, from_keras_model_by_tensorflow, TENSORFLOW, LAST, BY_TENSORFLOW, "tensorflow", "keras"),
        _edge(TF_FUNCTION, from_tf_function_by_tensorflow, TENSORFLOW, LAST, BY_TENSORFLOW, "tensorflow"),
        _edge(TORCH_MODULE, from_torch_module, LITERT_TORCH, SLOWER, "litert-torch", "torch", "litert_torch"),
        _edge(EXPORTED_PROGRAM, from_exported_program, LITERT_TORCH, SLOWER, "litert-torch", "torch", "litert_torch"),
    )
    verified_by = "LiteRT interpreter on the CPU"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a file into the LiteRT interpreter."""
        from registry_export_plugins._tensorflow.lite_runner import LiteRTRunner

        yield LiteRTRunner(path, interface)

    def describe(self, path: Path) -> Description:
        """Read the signature from the file; its sizes are what the file can be resized to."""
        from registry_export_plugins._tensorflow.lite_runner import describe

        return describe(path)

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show LiteRT in Python and, for Android, Kotlin."""
        inputs, outputs = description.interface.inputs, description.interface.outputs
        python = """
            import numpy as np
            from ai_edge_litert.interpreter import Interpreter

            model = Interpreter("model.tflite").get_signature_runner()
            outputs = model(«inputs»)
        """
        kotlin = """
            import org.tensorflow.lite.Interpreter

            val model = Interpreter(File(filesDir, "model.tflite"))
            fun buffer(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
            val inputs = mapOf(«inputs»)
            val outputs = mapOf(«outputs»)
            model.runSignature(inputs, outputs)
        """
        keys, results = identifiers(s.name for s in inputs), identifiers(s.name for s in outputs)

        def buffers(names: tuple[str, ...], specs: tuple[TensorSpec, ...]) -> str:
            lengths = [f"{item_bytes(spec)} * {listed(sizes(spec), ' * ')}" for spec in specs]
            pairs = zip(names, lengths, strict=True)
            return ", ".join(f"{quoted(name, 'Kotlin')} to buffer({length})" for name, length in pairs)

        def typed(key: str, spec: TensorSpec) -> str:
            integer = f'model.get_input_details()[{quoted(key)}]["dtype"]'  # of fewer bits, perhaps
            return f"{key}={zeros(spec, '' if spec.dtype.startswith('float') else integer)}"

        given = [typed(key, spec) for key, spec in zip(keys, inputs, strict=True)]
        return (
            snippet("Python", "LiteRT", python, inputs=in_lines("", given, "")),
            snippet("Kotlin", "LiteRT", kotlin, inputs=buffers(keys, inputs), outputs=buffers(results, outputs)),
        )

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say which runtime has the operators in the versions used: the converter writes it into the file."""
        from registry_export_plugins._tensorflow.lite_contents import OLDEST_RUNTIME

        oldest = "" if description is None else description.details.get(OLDEST_RUNTIME, "")
        if oldest:
            return (RuntimeNeed("tflite", f"TensorFlow Lite {oldest} or newer, or LiteRT", oldest),)
        return (RuntimeNeed("tflite", "LiteRT; how old it may be follows from the operators, once the file is made"),)

    def inspect(self, path: Path) -> Inside:
        """Read constant tensors, operators and the oldest runtime from the flatbuffer."""
        from registry_export_plugins._tensorflow.lite_contents import inside

        return inside(path)
