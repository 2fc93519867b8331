"""What the TensorFlow formats share: a function with named inputs and outputs, traced, saved and loaded.

Sources: https://www.tensorflow.org/guide/saved_model, https://www.tensorflow.org/guide/function
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export_plugins._tensorflow.names import identifiers, match_keys, unique_names

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVING_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorFlowFunction:
    """What the kind `tf_function` is: a concrete function and how its interface maps onto it.

    Attributes:
        function: A `ConcreteFunction`; keyword arguments in, a dict of tensors out.
        interface: Inputs and outputs, in order, with the source's names.
        arguments: The keyword of each input. It differs from the input's name only where that name
            is no Python identifier.
        keys: The key of each output in the dict.
        owner: Keeps the variables of `function` alive and is saved with it.
        notes: What a reader of the report should know of how it was loaded.
    """

    function: Any
    interface: Interface
    arguments: tuple[str, ...]
    keys: tuple[str, ...]
    owner: Any
    notes: tuple[str, ...] = ()

    def __call__(self, *tensors: Any) -> list[Any]:
        """Call with one tensor per input, in order; return one tensor per output, in order."""
        outputs = self.function(**dict(zip(self.arguments, tensors, strict=True)))
        return [outputs[key] for key in self.keys]


def dimensions(name: str, sizes: Sequence[int | None]) -> tuple[Dimension, ...]:
    """Name the unknown sizes of one tensor: `batch` for the first axis, `<name>_<axis>` for others."""
    return tuple(
        size if size is not None and size >= 0 else "batch" if axis == 0 else f"{name}_{axis}"
        for axis, size in enumerate(sizes)
    )


def to_spec(name: str, spec: Any) -> TensorSpec:
    """Describe a `tf.TensorSpec` or a tensor under the name given."""
    shape = None if spec.shape.rank is None else dimensions(name, spec.shape.as_list())
    return TensorSpec(name=name, dtype=spec.dtype.name, shape=shape)


def from_spec(spec: TensorSpec, argument: str) -> Any:
    """Make the `tf.TensorSpec` of an input; named dimensions become unknown sizes."""
    import tensorflow as tf

    sizes = None if spec.shape is None else [size if isinstance(size, int) else None for size in spec.shape]
    return tf.TensorSpec(sizes, tf.as_dtype(spec.dtype), name=argument)


def narrowed(found: TensorSpec, declared: TensorSpec | None) -> TensorSpec:
    """Combine what a model accepts with what its signature declares: the narrower size of each axis.

    A model may leave every size open where its author declared one; the first axis stays open,
    because a signature is made from one batch.
    """
    if declared is None or declared.shape is None:
        return found
    if found.shape is None:
        return replace(found, shape=declared.shape)
    if len(found.shape) != len(declared.shape):
        return found
    pairs = enumerate(zip(found.shape, declared.shape, strict=True))
    shape = tuple(
        own if isinstance(own, int) or (axis == 0 and isinstance(said, int)) else said for axis, (own, said) in pairs
    )
    return replace(found, shape=shape)


def declared_for(name: str, position: int, count: int, interface: Interface) -> TensorSpec | None:
    """Find what a signature says about one input: by name, else by position where the counts agree."""
    for spec in interface.inputs:
        if spec.name == name:
            return spec
    if len(interface.inputs) != count:
        return None
    return interface.inputs[position]


def trace(
    call: Callable[..., Sequence[Any]], inputs: Sequence[TensorSpec], names: Sequence[str], owner: Any
) -> TensorFlowFunction:
    """Trace `call` once into a function whose outputs are named.

    Args:
        call: Takes one tensor per input, in order; returns one tensor per output, in order.
        inputs: What it is traced with; named dimensions are left open.
        names: The outputs' names, in order; missing ones are called `output_<position>`.
        owner: Holds the variables that `call` uses.
    """
    import tensorflow as tf

    _plain_kernels()
    arguments = identifiers(spec.name for spec in inputs)
    keys: list[str] = []

    def serve(*tensors: Any) -> dict[str, Any]:
        results = list(call(*tensors))
        keys[:] = unique_names([names[i] if i < len(names) else f"output_{i}" for i in range(len(results))])
        # An input returned as it is, or one tensor returned twice, would lose its name otherwise.
        return {key: tf.identity(result) for key, result in zip(keys, results, strict=True)}

    specs = [from_spec(spec, argument) for spec, argument in zip(inputs, arguments, strict=True)]
    concrete = tf.function(serve, autograph=False).get_concrete_function(*specs)
    outputs = tuple(to_spec(key, concrete.structured_outputs[key]) for key in keys)
    return TensorFlowFunction(concrete, Interface(tuple(inputs), outputs), arguments, tuple(keys), owner)


def _plain_kernels() -> None:
    """Keep convolutions and what follows them apart: fused on the CPU, grouped ones have no kernel without oneDNN."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"remapping": False})


def retrace(function: TensorFlowFunction, inputs: Sequence[TensorSpec]) -> TensorFlowFunction:
    """Trace a function again for other sizes of its inputs."""
    return trace(function, inputs, [spec.name for spec in function.interface.outputs], function.owner)


def requested(found: Sequence[TensorSpec], interface: Interface) -> tuple[TensorSpec, ...]:
    """Return a model's inputs in its own order, with the sizes that an export's interface asks for."""
    wanted = {spec.name: spec for spec in interface.inputs}
    return tuple(wanted.get(spec.name, spec) for spec in found)


def save(function: TensorFlowFunction, path: Path) -> None:
    """Write a SavedModel folder whose only signature is `serving_default`.

    Raises:
        ConversionError: TensorFlow refused to save it.
    """
    import tensorflow as tf

    module = tf.Module()
    module.owner = function.owner
    module.kept = list(function.function.variables)
    own = retrace(function, function.interface.inputs)
    try:
        tf.saved_model.save(module, str(path), signatures={SERVING_SIGNATURE: own.function})
    except (ValueError, TypeError, AssertionError, tf.errors.OpError) as error:
        raise ConversionError(f"TensorFlow could not save the function as a SavedModel: {error}") from error


def load(path: Path, interface: Interface) -> TensorFlowFunction:
    """Load a SavedModel folder; `serving_default`, else the first of its signatures, else its call.

    Args:
        path: The folder that holds `saved_model.pb`.
        interface: Names and sizes that are known already; may be empty.

    Raises:
        SourceError: It cannot be read, or nothing in it can be called.
    """
    import tensorflow as tf

    _plain_kernels()
    try:
        loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, KeyError, TypeError, FileNotFoundError, tf.errors.OpError) as error:
        text = " ".join(str(error).split("You may be trying to load on a different device")[0].split())
        raise SourceError(
            f"The SavedModel {path.name} cannot be loaded: {text.replace(str(path), path.name).rstrip('.')}.",
            remedy="Log the folder whole, with its variables.",
        ) from error
    signatures = {name: loaded.signatures[name] for name in loaded.signatures}
    if signatures:
        name = chosen_signature(signatures)
        function = _from_signature(signatures[name], interface, loaded)
        return replace(function, notes=_note(name, signatures))
    return _from_call(loaded, interface)


def chosen_signature(names: Iterable[str]) -> str:
    """Return the signature that is exported: `serving_default`, else the only one, else the first by alphabet."""
    return SERVING_SIGNATURE if SERVING_SIGNATURE in names else sorted(names)[0]


def _note(name: str, names: Iterable[str]) -> tuple[str, ...]:
    others = sorted(set(names) - {name})
    if name == SERVING_SIGNATURE or not others:
        return ()
    listed = ", ".join(others)
    return (f"The SavedModel's signature {name} is exported: none is called {SERVING_SIGNATURE} (others: {listed}).",)


def _from_signature(signature: Any, interface: Interface, owner: Any) -> TensorFlowFunction:
    """Match a signature with the names given; the signature's own names where none are known, sorted.

    A file keeps no order of them: they come in another one in every process.
    """
    specs = signature.structured_input_signature[1]
    order = match_keys(tuple(sorted(specs)), tuple(spec.name for spec in interface.inputs))
    inputs = tuple(
        narrowed(to_spec(name, specs[key]), declared_for(name, position, len(order), interface))
        for position, (name, key) in enumerate(order)
    )
    keys = tuple(sorted(signature.structured_outputs))
    named = match_keys(keys, tuple(spec.name for spec in interface.outputs))
    outputs = tuple(to_spec(name, signature.structured_outputs[key]) for name, key in named)
    arguments = tuple(key for _, key in order)
    return TensorFlowFunction(signature, Interface(inputs, outputs), arguments, tuple(key for _, key in named), owner)


def _from_call(loaded: Any, interface: Interface) -> TensorFlowFunction:
    """Trace the `__call__` of an object that was saved without a signature."""
    if not callable(loaded):
        raise SourceError(
            "The SavedModel has no signature and cannot be called.",
            remedy=f"Save it with signatures={{'{SERVING_SIGNATURE}': function.get_concrete_function(...)}}.",
        )
    inputs = tuple(
        spec if spec.name else replace(spec, name="input" if len(interface.inputs) == 1 else f"input_{i}")
        for i, spec in enumerate(interface.inputs)
    ) or _specs_of_call(loaded)

    def call(*tensors: Any) -> list[Any]:
        return [tensor for _, tensor in flatten(loaded(*tensors))]

    names: list[str] = []

    def named(*tensors: Any) -> list[Any]:
        pairs = flatten(loaded(*tensors))
        names[:] = [name for name, _ in pairs]
        return [tensor for _, tensor in pairs]

    try:
        trace(named, inputs, (), loaded)
        return trace(call, inputs, names, loaded)
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"The SavedModel has no signature, and calling it with its declared inputs failed: {error}",
            remedy=f"Save it with signatures={{'{SERVING_SIGNATURE}': function.get_concrete_function(...)}}.",
        ) from error


def _specs_of_call(loaded: Any) -> tuple[TensorSpec, ...]:
    """Read the inputs of the first trace that was saved with an object's `__call__`."""
    import tensorflow as tf

    traces = getattr(loaded.__call__, "concrete_functions", None) or ()
    for concrete in traces:
        positional, named = concrete.structured_input_signature
        leaves = [spec for _, spec in flatten([*positional, *named.values()]) if isinstance(spec, tf.TensorSpec)]
        names = unique_names(spec.name or "input" for spec in leaves)
        return tuple(to_spec(name, spec) for name, spec in zip(names, leaves, strict=True))
    raise SourceError(
        "The SavedModel has no signature and its inputs are unknown.",
        remedy="Log it with a signature, or save it with signatures={'serving_default': ...}.",
    )


def flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """List the leaves of nested dicts, lists, tuples and named tuples with their names, in order.

    Names are joined by `.`; a lone leaf is called `output`, those of a list `output_<position>`.
    """
    if hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in flatten(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list | tuple):
        return [
            leaf for i, item in enumerate(value) for leaf in flatten(item, f"{name}.{i}" if name else f"output_{i}")
        ]
    return [] if value is None else [(name or "output", value)]
