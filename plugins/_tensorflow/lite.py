"""From a TensorFlow function to a TensorFlow Lite file, with as many open sizes as it can express.

TensorFlow Lite has no growing lists, so a recurrent loop over an open batch is refused; and no `Erf`.
The ways below are tried in order until one gives a file that also runs, and every try is recorded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, UnsupportedModelError
from registry_export.format import Array, ConversionRequest, ConversionResult
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, requested, retrace, save, trace
from registry_export_plugins._tensorflow.lite_check import check
from registry_export_plugins._tensorflow.lite_precision import Precise, with_precision
from registry_export_plugins._tensorflow.lite_precision import by_tensorflow as tensorflow_quantized

LARGEST_UNROLLED = 256
"""Longest sequence for which a recurrent layer's step is repeated; a loop is written for longer ones."""

FIXED_LENGTHS = (
    "Every size but the batch is fixed: TensorFlow Lite cannot express this model's loops over open sizes. "
    "Feed inputs of exactly these sizes."
)
FIXED_SIZES = (
    "Every size is fixed and the batch is 1: TensorFlow Lite cannot express this model's loops over open sizes. "
    "Feed one row at a time."
)

_CONTROL = frozenset({"While", "If", "Case", "Switch", "Enter"})

Way = tuple[str, Callable[[], TensorFlowFunction], str]
"""What a try is called, how its function is made, and the note that a reader should see if it succeeds."""


def convert_function(
    function: TensorFlowFunction, output: Path, request: ConversionRequest, by_tensorflow: bool = False
) -> ConversionResult:
    """Convert a function, keeping its names and as many of its open sizes as possible.

    Args:
        function: What to convert.
        output: The `.tflite` file to write.
        request: Names, sizes and samples.
        by_tensorflow: Whether TensorFlow's own quantizer makes fp16 and int8.

    Raises:
        UnsupportedModelError: Operators of the model have no TensorFlow Lite kernel; names them.
        ConversionError: The converter refused for another reason.
    """
    inputs = requested(function.interface.inputs, request.interface)
    ways = _ways(lambda specs: retrace(function, specs), inputs, request)
    made = first_that_works(ways, output, request, by_tensorflow)
    return replace(made, notes=(*function.notes, *made.notes))


def convert_keras(
    model: Any, output: Path, request: ConversionRequest, by_tensorflow: bool = False
) -> ConversionResult:
    """Convert a Keras model as `convert_function` does, unrolling recurrent layers where loops are refused."""
    from registry_export_plugins._tensorflow.keras import to_function
    from registry_export_plugins._tensorflow.keras_call import KerasCall
    from registry_export_plugins._tensorflow.keras_tracing import unrolled

    def traced(specs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
        return to_function(model, replace(request.interface, inputs=specs))

    def repeated(specs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
        with unrolled(model) as recurrent:
            if not recurrent:
                raise ConversionError("The model has no recurrent layer to unroll.")
            return traced(specs)

    inputs = requested(KerasCall(model, request.interface).inputs, request.interface)
    ways = _ways(traced, inputs, request)
    fixed = _fixed(inputs, request.samples)
    if _has_recurrent_layers(model) and _longest(fixed) <= LARGEST_UNROLLED:
        if fixed == inputs:
            ways.insert(1, ("recurrent layers unrolled", lambda: repeated(inputs), ""))
        else:
            ways.insert(
                -1, ("recurrent layers unrolled to the samples' length", lambda: repeated(fixed), FIXED_LENGTHS)
            )
    return first_that_works(ways, output, request, by_tensorflow)


def _has_recurrent_layers(model: Any) -> bool:
    return any(hasattr(layer, "unroll") for layer in model._flatten_layers())


def _ways(
    make: Callable[[tuple[TensorSpec, ...]], TensorFlowFunction],
    inputs: tuple[TensorSpec, ...],
    request: ConversionRequest,
) -> list[Way]:
    ways: list[Way] = [
        ("TensorFlow Lite converter", lambda: make(inputs), ""),
        ("TensorFlow Lite converter, loops rewritten through ONNX", lambda: _through_onnx(make(inputs), request), ""),
    ]
    fixed = _fixed(inputs, request.samples)
    if fixed != inputs:
        ways.append(("TensorFlow Lite converter, fixed lengths", lambda: make(fixed), FIXED_LENGTHS))
    single = _single(fixed)
    if single != fixed:
        ways.append(("TensorFlow Lite converter, all sizes fixed", lambda: make(single), FIXED_SIZES))
    return ways


def _fixed(inputs: tuple[TensorSpec, ...], samples: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Fix every open size but the batch to that of the samples."""
    return tuple(
        spec
        if spec.shape is None or spec.name not in samples
        else replace(
            spec,
            shape=tuple(
                size if isinstance(size, int) or axis == 0 else int(samples[spec.name].shape[axis])
                for axis, size in enumerate(spec.shape)
            ),
        )
        for spec in inputs
    )


def _single(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Fix the sizes that are still open to 1."""
    return tuple(
        spec
        if spec.shape is None
        else replace(spec, shape=tuple(size if isinstance(size, int) else 1 for size in spec.shape))
        for spec in inputs
    )


def _longest(inputs: tuple[TensorSpec, ...]) -> int:
    """The second axis is the length of a sequence, as Keras has it."""
    return max((size for spec in inputs for size in (spec.shape or ())[1:2] if isinstance(size, int)), default=0)


def _through_onnx(function: TensorFlowFunction, request: ConversionRequest) -> TensorFlowFunction:
    """Rewrite a function by way of ONNX: its loops become operators that need no growing lists."""
    from registry_export_plugins._onnx_to_tf.translator import translate
    from registry_export_plugins._tensorflow.to_onnx import convert_tf_function

    path = request.work / "through.onnx"
    convert_tf_function(function, path, 18, function.interface)
    return translate(path, function.interface)


def first_that_works(
    ways: list[Way], output: Path, request: ConversionRequest, by_tensorflow: bool = False
) -> ConversionResult:
    """Try each way; write the first file that runs on the samples and gives the function's own numbers.

    Its precision is brought to what was asked for once the float file is known to be right.
    """
    attempts: list[Attempt] = []
    errors: list[RegistryExportError] = []
    for name, make, note in ways:
        try:
            function = make()
            folder = request.work / f"way_{len(attempts)}"
            output.write_bytes(to_flatbuffer(function, folder))
            check(function, output, request.samples)
            precise = _precise(function, output, request, folder, by_tensorflow)
            output.write_bytes(precise.content)
        except RegistryExportError as error:
            attempts.append(Attempt(name, error.message))
            errors.append(error)
            continue
        notes = (*((note,) if note else ()), *precise.notes)
        return ConversionResult((*attempts, Attempt(name), *precise.attempts), notes)
    output.unlink(missing_ok=True)
    raise errors[0]


def _precise(
    function: TensorFlowFunction, path: Path, request: ConversionRequest, folder: Path, by_tensorflow: bool
) -> Precise:
    """Bring a float file that is right to the precision asked for."""

    def again(settings: Callable[[Any], None]) -> bytes:
        return to_flatbuffer(function, folder.with_name(f"{folder.name}_again"), settings)

    def half() -> bytes:
        return tensorflow_quantized(again, function, path, request).content

    if by_tensorflow:
        return tensorflow_quantized(again, function, path, request)
    return with_precision(path.read_bytes(), request, function.interface, half)


def to_flatbuffer(function: TensorFlowFunction, work: Path, settings: Callable[[Any], None] = lambda _: None) -> bytes:
    """Convert a function, its variables frozen into constants, with built-in operators only.

    Args:
        function: What to convert, for the sizes it was traced with.
        work: A folder that does not exist yet, for the SavedModel in between.
        settings: Adjusts the converter.

    Raises:
        UnsupportedModelError: Operators have no TensorFlow Lite kernel.
        ConversionError: The converter refused for another reason.
    """
    import tensorflow as tf

    save(_frozen(function), work)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(work), signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    settings(converter)
    try:
        content: bytes = converter.convert()
    # The converter's own exception type is private; it derives from Exception alone.
    except Exception as error:
        raise _explained(str(error)) from error
    return content


def _frozen(function: TensorFlowFunction) -> TensorFlowFunction:
    """Replace variables by constants where there are loops: a variable read inside one does not survive the conversion.

    Elsewhere the converter replaces them itself.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if not _loops(function):
        return function
    own = retrace(function, function.interface.inputs)
    frozen = convert_variables_to_constants_v2(own.function, lower_control_flow=False)
    if any(tensor.dtype == tf.resource for tensor in frozen.inputs):
        return function  # It uses tables, which have no constant form and are supported as they are.
    order = sorted(own.keys)

    def call(*tensors: Any) -> list[Any]:
        results = dict(zip(order, frozen(*tensors), strict=True))
        return [results[key] for key in own.keys]

    return trace(call, own.interface.inputs, own.keys, None)


def _loops(function: TensorFlowFunction) -> bool:
    """Say whether a function or any that it calls holds control flow."""
    graph = function.function.graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(called.node_def for called in graph.library.function))
    return any(node.op.removeprefix("Stateless") in _CONTROL for node in nodes)


def _explained(message: str) -> ConversionError:
    """Find the operators that the converter's pages of text are about."""
    named = re.findall(r"(?:TF Select|Custom) ops: ([\w, ]+)", message)
    operators = sorted({name.strip() for names in named for name in names.split(",")})
    if "TensorList" in message:
        operators = sorted({*operators, *re.findall(r"tf\.(TensorList\w+)", message)}) or ["TensorList"]
    wide = re.search(r"[<x]f(16|64)>", message)
    if operators and wide:
        return UnsupportedModelError(
            f"TensorFlow Lite has no kernels for float{wide[1]}, in which this model computes.",
            remedy="Log the model in float32 (a PyTorch module's `.float()`, a Keras model's dtype policy `float32`).",
        )
    if operators:
        return UnsupportedModelError(
            f"TensorFlow Lite has no kernel for {', '.join(operators)} as this model uses them.",
            remedy="Export another format.",
        )
    lines = [line for line in message.splitlines() if "error:" in line] or message.splitlines() or ["no reason given"]
    reason = re.sub(r"^.*?error: |\bloc\(.*\]\)+: ", "", lines[0])  # where in its graph says nothing to anybody
    return ConversionError(f"The TensorFlow Lite converter refused the model: {reason[:300]}")
