"""A Keras model as a function of named tensors: its inputs, how it is called, its named outputs.

Keras models take their inputs as one tensor, a list, a dict or several arguments, and return nested
structures; formats see one tensor per input and per output, in order.

Source: https://keras.io/api/models/model/
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._tensorflow.functions import (
    TensorFlowFunction,
    declared_for,
    dimensions,
    flatten,
    from_spec,
    narrowed,
    trace,
)
from registry_export_plugins._tensorflow.keras_tracing import portable
from registry_export_plugins._tensorflow.keras_tracing import unrolled as unrolled
from registry_export_plugins._tensorflow.names import unique_names


class KerasCall:
    """Calls a model with one tensor per input, in order, in inference mode.

    Args:
        model: A `keras.Model`, built or not.
        interface: The declared signature; decides names and sizes that the model leaves open, and all
            of them for a model that was never built (a subclass, a Sequential without an Input).

    Attributes:
        inputs: One specification per input, in the model's own order.
    """

    def __init__(self, model: Any, interface: Interface) -> None:
        self.model = model
        self._graph = _functional_part(model)
        self.inputs = _graph_inputs(self._graph, interface) if self._graph else _declared_inputs(interface)
        self._style: Callable[[Sequence[Any]], Any] | None = _graph_style(self._graph) if self._graph else None

    def __call__(self, *tensors: Any) -> list[tuple[str, Any]]:
        """Return the outputs with their names, in order."""
        return self._named(self.structured(tensors))

    def structured(self, tensors: Sequence[Any]) -> Any:
        """Return what the model itself returns."""
        if self._style is None:
            self._style = self._find_style(tensors)
        return self._style(tensors)

    def _named(self, value: Any) -> list[tuple[str, Any]]:
        pairs = flatten(value)
        own = list(getattr(self._graph, "output_names", None) or ())
        nested = isinstance(value, dict) or any(isinstance(item, dict | list | tuple) for item in _items(value))
        if not nested and len(own) == len(pairs):
            pairs = list(zip(own, (tensor for _, tensor in pairs), strict=True))
        names = unique_names(name for name, _ in pairs)
        return list(zip(names, (tensor for _, tensor in pairs), strict=True))

    def _find_style(self, tensors: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Try the ways in which a subclassed model may take its inputs, the likeliest first."""
        names = [spec.name for spec in self.inputs]
        failures: list[str] = []
        for style in _styles(self.model, names):
            try:
                style(tensors)
            # Anything may come out of a stranger's `call`; the last failure is reported below.
            except Exception as error:  # noqa: BLE001
                failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
            else:
                return style
        raise SourceError(
            f"The Keras model {self.model.name} cannot be called with its inputs {', '.join(names)}: {failures[0]}",
            remedy="Log it with a signature whose inputs are named as its call() expects them.",
        )


def _functional_part(model: Any) -> Any:
    """The functional graph of a model: itself, or what a built Sequential holds; None for a subclass."""
    graph = getattr(model, "_functional", None) or model
    return graph if getattr(graph, "_inputs_struct", None) is not None else None


def _graph_inputs(graph: Any, interface: Interface) -> tuple[TensorSpec, ...]:
    structure = graph._inputs_struct
    leaves = flatten(structure)
    if isinstance(structure, dict):
        names = unique_names(name for name, _ in leaves)
    else:
        # An unnamed Input's tensor is numbered anew in every process; its layer's name is saved with the model.
        names = unique_names(tensor._keras_history.operation.name for _, tensor in leaves)
    found = [
        TensorSpec(name, str(tensor.dtype), dimensions(name, tensor.shape))
        for name, (_, tensor) in zip(names, leaves, strict=True)
    ]
    if not any(getattr(layer, "stateful", False) for layer in graph._flatten_layers()):
        # A Sequential that was built by its first call has that call's batch; nothing depends on it.
        found = [replace(spec, shape=("batch", *spec.shape[1:])) if spec.shape else spec for spec in found]
    count = len(found)
    return tuple(narrowed(spec, declared_for(spec.name, i, count, interface)) for i, spec in enumerate(found))


def _declared_inputs(interface: Interface) -> tuple[TensorSpec, ...]:
    if not interface.inputs:
        raise SourceError(
            "The Keras model has no Input layer and was logged without a signature, so its inputs are unknown.",
            remedy="Log it with signature=mlflow.models.infer_signature(x, model(x)), or build it from keras.Input.",
        )
    lone = len(interface.inputs) == 1
    return tuple(
        spec if spec.name else replace(spec, name="input" if lone else f"input_{i}")
        for i, spec in enumerate(interface.inputs)
    )


def _graph_style(graph: Any) -> Callable[[Sequence[Any]], Any]:
    structure = graph._inputs_struct

    def style(tensors: Sequence[Any]) -> Any:
        return graph(_rebuilt(structure, iter(tensors)), training=False)

    return style


def _rebuilt(structure: Any, tensors: Iterator[Any]) -> Any:
    """Put tensors where `flatten` found the leaves of `structure`."""
    if isinstance(structure, dict):
        return {key: _rebuilt(item, tensors) for key, item in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)([_rebuilt(item, tensors) for item in structure])
    return next(tensors)


def _styles(model: Any, names: list[str]) -> list[Callable[[Sequence[Any]], Any]]:
    keywords = {"training": False} if "training" in _parameters(model) else {}
    takes_each = [name for name in _parameters(model) if name not in ("training", "mask")]
    single: list[Callable[[Sequence[Any]], Any]] = [lambda t: model(t[0], **keywords)]
    as_dict: Callable[[Sequence[Any]], Any] = lambda t: model(dict(zip(names, t, strict=True)), **keywords)  # noqa: E731
    as_list: Callable[[Sequence[Any]], Any] = lambda t: model(list(t), **keywords)  # noqa: E731
    each: Callable[[Sequence[Any]], Any] = lambda t: model(*t, **keywords)  # noqa: E731
    by_name: Callable[[Sequence[Any]], Any] = lambda t: model(**dict(zip(names, t, strict=True)), **keywords)  # noqa: E731
    if len(names) == 1:
        return [*single, as_dict, as_list]
    if len(takes_each) > 1:
        return [by_name, each, as_dict, as_list] if set(names) <= set(takes_each) else [each, as_dict, as_list]
    return [as_dict, as_list, each]


def is_subclass(model: Any) -> bool:
    """Say whether no graph of layers tells how a model is called."""
    return _functional_part(model) is None


def _parameters(model: Any) -> list[str]:
    return list(inspect.signature(model.call).parameters)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def outputs_of(call: KerasCall) -> tuple[TensorSpec, ...]:
    """Read the outputs of a functional model without running it; empty for a subclassed one."""
    graph = call._graph
    if graph is None:
        return ()
    batch_open = all(spec.shape is None or spec.shape[:1] == ("batch",) for spec in call.inputs)
    return tuple(
        TensorSpec(
            name, str(tensor.dtype), dimensions(name, (None if batch_open else tensor.shape[0], *tensor.shape[1:]))
        )
        for name, tensor in call._named(graph._outputs_struct)
    )


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
    inputs = _requested(call.inputs, interface)
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


def _requested(found: tuple[TensorSpec, ...], interface: Interface) -> tuple[TensorSpec, ...]:
    """The model's inputs in its own order, with the sizes that the export asks for."""
    wanted = {spec.name: spec for spec in interface.inputs}
    return tuple(wanted.get(spec.name, spec) for spec in found)


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
        for spec in _requested(call.inputs, interface)
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
