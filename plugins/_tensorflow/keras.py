"""A Keras model as a function of named tensors, and what has to be done to it first: its weights made, or wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, from_spec, requested, trace
from registry_export_plugins._tensorflow.keras_call import KerasCall, is_subclass
from registry_export_plugins._tensorflow.keras_tracing import portable


def to_function(model: Any, interface: Interface) -> TensorFlowFunction:
    """Trace a Keras model for the interface given.

    Args:
        model: A `keras.Model` on the TensorFlow backend.
        interface: Inputs to trace with, in the model's order; names of its outputs.

    Raises:
        ConversionError: The model cannot be traced.
    """
    import tensorflow as tf

    call = KerasCall(model, interface)
    inputs = requested(call.inputs, interface)
    build(call, inputs)
    names: list[str] = [spec.name for spec in interface.outputs]

    def serve(*tensors: Any) -> list[Any]:
        pairs = call(*tensors)
        if not interface.outputs:
            names[:] = [name for name, _ in pairs]
        return [tensor for _, tensor in pairs]

    # Not the model itself: saving it would trace its training-time endpoints too.
    owner = tf.Module()
    owner.tables = [layer.lookup_table for layer in model._flatten_layers() if hasattr(layer, "lookup_table")]
    try:
        with portable(model):
            function = trace(serve, inputs, names, owner)
            if not interface.outputs and function.keys != tuple(names):
                function = trace(serve, inputs, names, owner)
            return function
    except (TypeError, ValueError, NotImplementedError, RuntimeError, tf.errors.OpError) as error:
        raise ConversionError(f"TensorFlow cannot trace the Keras model {model.name}: {error}") from error


def build(call: KerasCall, inputs: Sequence[TensorSpec]) -> None:
    """Give a model that was never called its weights, by calling it once on zeros."""
    if not call.model.built:
        _call_on_zeros(call, inputs)


def _call_on_zeros(call: KerasCall, inputs: Sequence[TensorSpec]) -> None:
    import tensorflow as tf

    specs = [from_spec(spec, spec.name) for spec in inputs]
    call(*(tf.zeros([size or 1 for size in spec.shape], spec.dtype) for spec in specs))


def built(model: Any, interface: Interface) -> Any:
    """Return a model with its weights made, where the file or the signature tells its inputs."""
    if not model.built and interface.inputs:
        call = KerasCall(model, interface)
        build(call, call.inputs)
    return model


def completed(model: Any, path: Path, interface: Interface) -> Any:
    """Return a model with all weights of its file, those of layers that Keras makes at the first call too.

    Keras loads what exists: of a subclass without `build` or with several inputs it may be a part, and the first
    call then draws the rest at random.

    Raises:
        SourceError: The weights in the file are not those that the first call made.
    """
    if not is_subclass(model) or not interface.inputs:
        return model
    made, was_built = len(model.weights), model.built
    call = KerasCall(model, interface)
    try:
        _call_on_zeros(call, call.inputs)
    except SourceError:
        if was_built:  # inputs of the least sizes may be too small for it; it will be called on others
            return model
        raise
    if len(model.weights) == made:
        return model
    try:
        model.load_weights(path)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"The weights in {path.name} are not those that the model {model.name} makes when it is called: "
            f"{' '.join(str(error).split())[:400]}",
            remedy="Give the class a build() that makes all of its layers' weights, and log the model again.",
        ) from error
    return model


def as_functional(model: Any, interface: Interface) -> Any:
    """Return a functional model around a subclass: its file tells Keras how to make every weight."""
    import keras

    call = KerasCall(model, interface)
    inputs = [
        keras.Input(batch_shape=tuple(from_spec(spec, spec.name).shape), dtype=spec.dtype, name=spec.name)
        for spec in requested(call.inputs, interface)
    ]
    return keras.Model(inputs, call.structured(inputs), name=model.name)


def wrapped(model: Any, interface: Interface, setup: ModelSetup) -> Any:
    """Return what a rule's wrapper makes of a model: a `keras.Model` again.

    Raises:
        SourceError: It made something else.
    """
    import keras

    made = setup.wrap(model)
    if not isinstance(made, keras.Model):
        raise SourceError(
            f"The wrapper {setup.wrapper} returned a {type(made).__name__}, not a keras.Model.",
            remedy="Build one, for instance keras.Model(model.inputs, ...).",
        )
    return built(made, interface)


def require_tensorflow() -> None:
    """Check that Keras runs on TensorFlow.

    Raises:
        SourceError: It runs on another backend.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise SourceError(
            f"Keras runs on its {keras.backend.backend()} backend here, and TensorFlow's is needed.",
            remedy="Set KERAS_BACKEND=tensorflow.",
        )
