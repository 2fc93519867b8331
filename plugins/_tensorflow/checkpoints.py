"""Restores TensorFlow checkpoints into objects that a factory built, and makes functions of them.

Source: https://www.tensorflow.org/guide/checkpoint#loading_mechanics
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._tensorflow.files import require_values
from registry_export_plugins._tensorflow.functions import (
    TensorFlowFunction,
    flatten,
    from_spec,
    to_spec,
    trace,
)
from registry_export_plugins._tensorflow.keras_weights import load_keras_2
from registry_export_plugins._tensorflow.names import unique_names
from registry_export_plugins._tensorflow.wrapping import wrapped

_OBJECTS = "/.ATTRIBUTES/"


def load(path: Path, interface: Interface, setup: ModelSetup) -> TensorFlowFunction:
    """Build what the factory builds, restore the checkpoint into it, and trace it.

    Args:
        path: The checkpoint's `.index` file.
        interface: The declared signature; needed where neither the object nor its call says its inputs.
        setup: Names the factory, and a wrapper.

    Raises:
        SourceError: The checkpoint and the model do not match, or the model cannot be called.
    """
    import keras
    import tensorflow as tf

    built = setup.build(path.name)
    prefix = path.with_suffix("")
    if isinstance(built, keras.Model):
        from registry_export_plugins._tensorflow.keras import built as with_variables
        from registry_export_plugins._tensorflow.keras import to_function

        _restore(with_variables(built, interface), prefix)
        return wrapped(to_function(built, interface), setup)
    if not isinstance(built, tf.Module | tf.train.Checkpoint) or not callable(built):
        raise SourceError(
            f"The model_factory {setup.model_factory} returned a {type(built).__name__}, not a tf.Module that can be "
            "called, nor a Keras model."
        )
    inputs = _inputs(built, interface)
    if not built.variables:  # those that are made by the first call
        built(*(tf.zeros(_sizes(spec), tf.as_dtype(spec.dtype)) for spec in inputs))
    _restore(built, prefix)
    return wrapped(_traced(built, inputs), setup)


def _restore(built: Any, prefix: Path) -> None:
    """Restore every variable of an object; what it was called in the checkpoint is found out."""
    import tensorflow as tf

    require_values(prefix)
    try:
        keys = [name for name, _ in tf.train.list_variables(str(prefix))]
    except (ValueError, tf.errors.OpError) as error:
        raise SourceError(f"The checkpoint {prefix.name} cannot be read: {str(error)[:300]}") from error
    if not any(_OBJECTS in key for key in keys):
        _restore_by_name(built, prefix, keys)
        return
    roots = sorted({key.split("/")[0] for key in keys} - {"save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"})
    unmatched = ""
    for checkpoint in (tf.train.Checkpoint(built), *(tf.train.Checkpoint(**{root: built}) for root in roots)):
        try:
            checkpoint.read(str(prefix)).assert_existing_objects_matched().expect_partial()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            unmatched = unmatched or " ".join(str(error).split())
        else:
            return
    if _is_keras(built):
        try:
            load_keras_2(built, prefix)
        except SourceError as error:
            unmatched = error.message
        else:
            return
    raise SourceError(
        f"The checkpoint {prefix.name} does not fit the model that the factory builds: {unmatched[:300]} "
        f"The checkpoint holds {', '.join(key.split(_OBJECTS)[0] for key in keys[:6])}.",
        remedy="Let model_factory build the object as it was when the checkpoint was written.",
    )


def _is_keras(built: Any) -> bool:
    import keras

    return isinstance(built, keras.Model)


def _restore_by_name(built: Any, prefix: Path, keys: list[str]) -> None:
    """Restore a checkpoint of TensorFlow 1, whose keys are the variables' names."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    names = {getattr(variable, "path", variable.name.split(":")[0]): variable for variable in built.variables}
    missing = sorted(set(names) - set(keys))
    if missing:
        raise SourceError(
            f"The checkpoint {prefix.name} has no value for {', '.join(missing[:5])}; it holds {', '.join(keys[:5])}.",
            remedy="Let model_factory give its variables the names that they had.",
        )
    for name, variable in names.items():
        value = reader.get_tensor(name)
        if tuple(value.shape) != tuple(variable.shape):
            raise SourceError(
                f"In the checkpoint {prefix.name}, {name} has the shape {tuple(value.shape)}; the model's is "
                f"{tuple(variable.shape)}."
            )
        variable.assign(value)


def _inputs(built: Any, interface: Interface) -> tuple[TensorSpec, ...]:
    """Read the inputs of a module's call from its `input_signature`, else from the declared signature."""
    import tensorflow as tf

    declared = getattr(built.__call__, "input_signature", None)
    if declared:
        leaves = [spec for _, spec in flatten(list(declared)) if isinstance(spec, tf.TensorSpec)]
        own = unique_names(
            spec.name or ("input" if len(leaves) == 1 else f"input_{i}") for i, spec in enumerate(leaves)
        )
        given = [spec.name for spec in interface.inputs]
        names = given if len(given) == len(own) and all(given) else own
        return tuple(to_spec(name, spec) for name, spec in zip(names, leaves, strict=True))
    if not interface.inputs:
        raise SourceError(
            f"The inputs of {type(built).__name__} are unknown.",
            remedy="Decorate its __call__ with tf.function(input_signature=[...]), or log an input example.",
        )
    lone = len(interface.inputs) == 1
    return tuple(
        spec if spec.name else replace(spec, name="input" if lone else f"input_{i}")
        for i, spec in enumerate(interface.inputs)
    )


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else 1 for size in spec.shape or ()]


def _traced(built: Any, inputs: tuple[TensorSpec, ...]) -> TensorFlowFunction:
    import tensorflow as tf

    names: list[str] = []

    def call(*tensors: Any) -> list[Any]:
        pairs = flatten(built(*tensors))
        names[:] = [name for name, _ in pairs]
        return [tensor for _, tensor in pairs]

    try:
        tf.function(call, autograph=False).get_concrete_function(
            *(from_spec(spec, f"i{i}") for i, spec in enumerate(inputs))
        )
        return trace(call, inputs, names, built)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise SourceError(f"{type(built).__name__} cannot be called with its inputs: {str(error)[:300]}") from error
