"""What a rule's wrapper does to a TensorFlow function or a Keras model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, flatten, trace


def wrapped(function: TensorFlowFunction, setup: ModelSetup) -> TensorFlowFunction:
    """Let the wrapper put a callable around a function.

    The wrapper is given a callable that takes one tensor per input, in order, and returns a dict of tensors
    by output name; it returns a callable that takes the same tensors, and returns tensors in any structure.

    Raises:
        SourceError: The wrapper returned something that cannot be called, or its callable failed.
    """
    if not setup.wrapper:
        return function
    names = [spec.name for spec in function.interface.outputs]

    def inner(*tensors: Any) -> dict[str, Any]:
        return dict(zip(names, function(*tensors), strict=True))

    return traced(setup.wrap(inner), function, setup.wrapper)


def traced(call: Any, function: TensorFlowFunction, what: str) -> TensorFlowFunction:
    """Trace a callable for the inputs of a function, its outputs named by their places in what it returns."""
    import tensorflow as tf

    if not callable(call):
        raise SourceError(f"The wrapper {what} returned a {type(call).__name__}, which cannot be called.")
    names: list[str] = []

    def serve(*tensors: Any) -> list[Any]:
        pairs = flatten(call(*tensors))
        names[:] = [name for name, _ in pairs]
        return [tf.convert_to_tensor(tensor) for _, tensor in pairs]

    inputs = function.interface.inputs
    try:
        # The names are known once it has been traced.
        trace(serve, inputs, (), function.owner)
        return replace(trace(serve, inputs, names, function.owner), notes=function.notes)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise SourceError(f"What the wrapper {what} returned cannot be traced: {str(error)[:300]}") from error
