"""From TensorFlow and Keras to Core ML: the ways that are tried, in order.

A function is traced with Core ML's element types, its variables frozen into constants, and converted with
its sizes open. Where coremltools cannot translate a recurrent loop, a Keras model's recurrent layers are
unrolled; last, the sizes other than the batch, then all of them, are fixed to the samples'.

Source: https://apple.github.io/coremltools/docs-guides/source/tensorflow-2.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, Interface, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._coreml.convert import (
    call_converter,
    has_half,
    input_features,
    input_types,
    refused,
    renamed_interface,
    save,
)
from registry_export_plugins._coreml.names import Feature, features
from registry_export_plugins._coreml.operators import register_tensorflow_operators
from registry_export_plugins._coreml.structure import check
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, requested, retrace, trace

LARGEST_UNROLLED = 256
"""Longest sequence for which a recurrent layer's step is repeated."""

FIXED_LENGTHS = "Every size but the batch is fixed: coremltools cannot translate this model's loops over open sizes."
FIXED_SIZES = "Every size is fixed: coremltools cannot translate this model with open sizes."

Way = tuple[str, Callable[[], TensorFlowFunction], tuple[TensorSpec, ...], str]
"""What a try is called, what traces the function, the inputs with their sizes, the note if it succeeds."""
Make = Callable[[tuple[TensorSpec, ...]], TensorFlowFunction]


def from_tf_function(function: TensorFlowFunction, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a TensorFlow function.

    Args:
        function: What to convert.
        output: The `.mlpackage` folder to write.
        request: The conversion's request.

    Raises:
        UnsupportedModelError: coremltools has no translation of an operator; names it.
        ConversionError: No way worked, for another reason.
    """
    inputs = requested(function.interface.inputs, request.interface)

    def make(specs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
        return retrace(function, specs)

    return _first_that_works(_ways(make, inputs, request), output, request)


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model, its recurrent layers unrolled where their loops are refused.

    Arguments and errors as for `from_tf_function`.
    """
    from registry_export_plugins._tensorflow.keras import to_function
    from registry_export_plugins._tensorflow.keras_call import KerasCall
    from registry_export_plugins._tensorflow.keras_tracing import unrolled

    def make(specs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
        with _plain_loops():
            return to_function(model, replace(request.interface, inputs=specs))

    def repeated(specs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
        with unrolled(model):
            return make(specs)

    inputs = requested(KerasCall(model, request.interface).inputs, request.interface)
    ways = _ways(make, inputs, request)
    fixed = _fixed(inputs, request, batch=False)
    recurrent = any(hasattr(layer, "unroll") for layer in model._flatten_layers())
    if recurrent and _longest(fixed) <= LARGEST_UNROLLED:
        note = FIXED_LENGTHS if fixed != inputs else ""
        ways.insert(1, ("recurrent layers unrolled", lambda: repeated(fixed), fixed, note))
    return _first_that_works(ways, output, request)


@contextmanager
def _plain_loops() -> Iterator[None]:
    """Trace loops without a limit on their turns, of which coremltools loses the counter.

    Keras's loops over time end by their own condition as well.
    """
    import tensorflow as tf

    original = tf.while_loop

    def while_loop(cond: Any, body: Any, loop_vars: Any, maximum_iterations: Any = None, **arguments: Any) -> Any:
        return original(cond, body, loop_vars, **arguments)

    tf.while_loop = while_loop
    try:
        yield
    finally:
        tf.while_loop = original


def _ways(make: Make, inputs: tuple[TensorSpec, ...], request: ConversionRequest) -> list[Way]:
    ways: list[Way] = [("coremltools", lambda: make(inputs), inputs, "")]
    fixed = _fixed(inputs, request, batch=False)
    if fixed != inputs:
        ways.append(("coremltools, fixed lengths", lambda: make(fixed), fixed, FIXED_LENGTHS))
    single = _fixed(inputs, request, batch=True)
    if single != fixed:
        ways.append(("coremltools, all sizes fixed", lambda: make(single), single, FIXED_SIZES))
    return ways


def _fixed(inputs: tuple[TensorSpec, ...], request: ConversionRequest, *, batch: bool) -> tuple[TensorSpec, ...]:
    """Fix open sizes to those of the samples, that of the first axis only if `batch`."""
    return tuple(
        spec
        if spec.shape is None
        else replace(
            spec,
            shape=tuple(
                int(request.samples[spec.name].shape[axis]) if isinstance(size, str) and (axis or batch) else size
                for axis, size in enumerate(spec.shape)
            ),
        )
        for spec in inputs
    )


def _longest(inputs: Sequence[TensorSpec]) -> int:
    """The second axis is the length of a sequence, as Keras has it."""
    return max((size for spec in inputs for size in (spec.shape or ())[1:2] if isinstance(size, int)), default=0)


def _first_that_works(ways: Sequence[Way], output: Path, request: ConversionRequest) -> ConversionResult:
    """Deliver the first package that is sound."""
    register_tensorflow_operators()
    failed: list[tuple[str, RegistryExportError]] = []
    for number, (name, make, specs, note) in enumerate(ways):
        candidate = request.work / f"way-{number}.mlpackage"
        order = {spec.name: i for i, spec in enumerate(request.interface.inputs)}
        ordered = tuple(sorted(specs, key=lambda spec: order.get(spec.name, len(order))))
        sized = replace(request, interface=replace(request.interface, inputs=ordered))
        try:
            _write(make(), candidate, sized)
        except RegistryExportError as error:
            failed.append((name, error))
            continue
        candidate.rename(output)
        attempts = (*(Attempt(way, error.message) for way, error in failed), Attempt(name))
        return ConversionResult(attempts, (note,) if note else ())
    raise refused(failed)


def _write(function: TensorFlowFunction, output: Path, request: ConversionRequest) -> None:
    inputs = input_features(request)
    interface = renamed_interface(request, len(function.keys))
    types = {spec.name: spec.dtype for spec in function.interface.outputs}
    specs = [
        replace(spec, dtype=types.get(key, spec.dtype))
        for spec, key in zip(_in_order_of(function, interface), function.keys, strict=True)
    ]
    outputs = features(specs, has_half(request.options), [feature.name for feature in inputs])
    source, names = _frozen(function, inputs, outputs, request.interface)
    converted = call_converter(
        [source],
        "tensorflow",
        request,
        inputs=input_types(inputs, request),
        outputs=_outputs(names, outputs),
    )
    save(converted, output, inputs, outputs)
    check(output, request.interface)


def _in_order_of(function: TensorFlowFunction, interface: Interface) -> list[TensorSpec]:
    """Return the interface's outputs in the function's order: matched by name, else by position."""
    by_name = {spec.name: spec for spec in interface.outputs}
    own = [spec.name for spec in function.interface.outputs]
    return [by_name[name] for name in own] if set(own) == set(by_name) else list(interface.outputs)


def _frozen(
    function: TensorFlowFunction, inputs: Sequence[Feature], outputs: Sequence[Feature], interface: Interface
) -> tuple[Any, list[str]]:
    """Trace a function with Core ML's names and element types, and freeze its variables.

    Returns:
        The frozen concrete function, and the name of each output's tensor, in order.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    by_source = {feature.source: feature for feature in inputs}
    own = function.interface.inputs
    stored = tuple(
        replace(spec, name=by_source[spec.name].name, dtype=by_source[spec.name].dtype, shape=spec.shape or (1,))
        for spec in own
    )

    def call(*tensors: Any) -> list[Any]:
        given = [
            tf.cast(tensor if spec.shape else tf.reshape(tensor, []), spec.dtype)
            for tensor, spec in zip(tensors, own, strict=True)
        ]
        results = function(*given)
        return [
            tf.cast(tf.reshape(result, [1]) if result.shape.rank == 0 else result, feature.dtype)
            for result, feature in zip(results, outputs, strict=True)
        ]

    # Outputs are sorted by their keys; numbered keys of one width keep their order.
    keys = [f"result_{i:04}" for i in range(len(outputs))]
    traced = trace(call, stored, keys, function.owner)
    try:
        # coremltools translates `While`, not the cycles of operators that it is lowered to.
        frozen = convert_variables_to_constants_v2(traced.function, lower_control_flow=False)
    except (ValueError, KeyError, NotImplementedError, tf.errors.OpError) as error:
        raise ConversionError(f"TensorFlow could not freeze the function: {error}") from error
    return frozen, [tensor.name.split(":")[0] for tensor in frozen.outputs]


def _outputs(names: Sequence[str], outputs: Sequence[Feature]) -> list[Any]:
    import coremltools as ct
    import numpy as np

    return [
        ct.TensorType(name=name, dtype=np.dtype(feature.dtype).type)
        for name, feature in zip(names, outputs, strict=True)
    ]
