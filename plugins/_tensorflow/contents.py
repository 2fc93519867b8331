"""What TensorFlow's and Keras's files hold: variables, constants of a graph, operators, layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from registry_export.errors import SourceError
from registry_export.format import Array, Held, Inside
from registry_export.parsing import json_of, read_bounded
from registry_export_plugins._tensorflow.files import require_values

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NO_TENSORS = ("_CHECKPOINTABLE_OBJECT_GRAPH",)
_LEAST_CONSTANT = 2
_WEIGHTS = "Operators: a file of weights holds no graph."


def of_checkpoint(prefix: Path) -> Inside:
    """Read a TensorFlow checkpoint.

    Args:
        prefix: Its path without `.index`.

    Raises:
        SourceError: It cannot be read.
    """
    return Inside(_variables(prefix), unsaid=("Operators: a checkpoint holds no graph.",))


def _variables(prefix: Path) -> Iterator[Held]:
    import tensorflow as tf

    require_values(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        dtypes, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    except (ValueError, tf.errors.OpError) as error:
        raise SourceError(f"The checkpoint {prefix.name} cannot be read: {str(error)[:300]}") from error
    for key in sorted(shapes):
        if key in _NO_TENSORS:
            continue
        name, dtype, shape = key.removesuffix(_VALUE), dtypes[key], tuple(shapes[key])
        if dtype == tf.string:
            yield Held(name, None, shape, "string")
        else:
            size = math.prod(shape) * dtype.size
            yield Held(name, partial(_value, reader, key), shape, dtype.name, size)


def _value(reader: Any, key: str) -> Array:
    return _plain(reader.get_tensor(key))


def _plain(value: Any) -> Array:
    """Return what NumPy knows: bfloat16 and 8-bit floats as float32."""
    import numpy as np

    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def of_saved_model(path: Path) -> Inside:
    """Read a SavedModel: its variables under their names in the object graph, and the nodes of all functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    meta = proto.meta_graphs[0]
    variables = path / "variables" / "variables"
    has = variables.with_suffix(".index").is_file()
    nodes = _nodes(meta.graph_def)
    tensors = (*(_variables(variables) if has else ()), *_constants(nodes))
    metadata = {"tags": ", ".join(meta.meta_info_def.tags), "signatures": ", ".join(sorted(meta.signature_def))}
    return Inside(tensors, _operators(nodes), metadata)


def of_graph(graph: Any) -> Inside:
    """Read a frozen graph (`GraphDef`): its constants are its weights."""
    nodes = _nodes(graph)
    return Inside(_constants(nodes), _operators(nodes))


def _nodes(graph: Any) -> list[tuple[str, Any]]:
    """Return the nodes of a graph and of its functions by name; those of a function begin with its own."""
    own = [(node.name, node) for node in graph.node]
    return own + [(f"{f.signature.name}/{node.name}", node) for f in graph.library.function for node in f.node_def]


def _operators(nodes: list[tuple[str, Any]]) -> Counter[str]:
    return Counter(node.op for _, node in nodes if node.op != "Const")


def _constants(nodes: list[tuple[str, Any]]) -> Iterator[Held]:
    """Yield constants that may be weights: shapes and axes that a graph computes with are no tensors of the model."""
    import tensorflow as tf

    for name, node in nodes:
        if node.op != "Const":
            continue
        tensor = node.attr["value"].tensor
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        shape = tuple(int(dim.size) for dim in tensor.tensor_shape.dim)
        if dtype.is_floating or math.prod(shape) >= _LEAST_CONSTANT:
            value = None if dtype == tf.string else partial(_constant, tensor)
            yield Held(name, value, shape, dtype.name, math.prod(shape) * dtype.size)


def _constant(tensor: Any) -> Array:
    import tensorflow as tf

    return _plain(tf.make_ndarray(tensor))


def of_keras(model: Any) -> Inside:
    """Read a Keras model: its variables by their paths, and its innermost layers by class."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if not list(layer._layers)]
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    metadata = {"class": type(model).__name__, "name": model.name, "trainable parameters": str(trained)}
    return Inside(_weights(model), Counter(type(layer).__name__ for layer in layers), metadata)


def _weights(model: Any) -> Iterator[Held]:
    for weight in model.weights:
        shape = tuple(weight.shape)
        size = math.prod(shape) * _itemsize(str(weight.dtype))
        yield Held(weight.path, partial(_numpy, weight), shape, str(weight.dtype), size)


def _itemsize(dtype: str) -> int:
    import tensorflow as tf

    return int(tf.as_dtype(dtype).size)


def _numpy(weight: Any) -> Array:
    return _plain(weight.numpy())


def of_weights(path: Path) -> Inside:
    """Read Keras weights: HDF5, an index of several HDF5 files, or a TensorFlow checkpoint of Keras 2.

    Raises:
        SourceError: They cannot be read.
    """
    if path.suffix == ".index":
        return of_checkpoint(path.with_suffix(""))
    files = _shards(path) if path.name.endswith(".weights.json") else [path]
    return Inside((held for file in files for held in _datasets(file)), unsaid=(_WEIGHTS,))


def _shards(index: Path) -> list[Path]:
    try:
        listed: Mapping[str, Any] = json_of(read_bounded(index))["weight_map"]
        names = {str(name) for held in listed.values() for name in (held if isinstance(held, list) else [held])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{index.name} does not say which files hold the weights: {error}") from error
    files = [index.parent / name for name in sorted(names)]
    for file in files:
        if not file.is_file() or file.resolve().parent != index.parent.resolve():
            raise SourceError(
                f"{index.name} names {file.name}, which is not beside it.", remedy="Log all of its files."
            )
    return files


def _datasets(path: Path) -> Iterator[Held]:
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path, "r") as file:
            found: list[tuple[str, Any]] = []
            file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
            for name, item in found:
                yield Held(name, partial(_dataset, item), tuple(item.shape), item.dtype.name, item.nbytes)
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read: {error}", remedy="Log the file again.") from error


def _dataset(item: Any) -> Array:
    return _plain(item[()])
