"""How a Keras model is called: one tensor per input and per output, in order, whatever the model itself takes.

Keras models take their inputs as one tensor, a list, a dict or several arguments, and return nested structures.

Source: https://keras.io/api/models/model/
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export_plugins._tensorflow.functions import declared_for, dimensions, flatten, narrowed
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
