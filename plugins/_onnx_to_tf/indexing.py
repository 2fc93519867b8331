"""Operators that pick and place elements by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Node,
    constant,
    normalized,
    operator,
    partly_known,
    sizes,
    static,
)


@operator("Gather")
def _gather(node: Node, x: Any, indices: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis", 0) % max(x.shape.rank, 1)
    known = static(indices)
    if known is not None and x.shape.rank == 1 and x.dtype.is_integer:
        found = _size_at(x, known)
        if found is not None:
            return found
    if known is not None and known.ndim == 0:
        place = int(known)
        size = x.shape[axis]
        if place >= 0 or size is not None:
            place = place + size if place < 0 else place
            return x[(slice(None),) * axis + (place,)]
    size = x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis]
    return tf.gather(x, normalized(indices, size), axis=axis)


def _size_at(shape: Any, indices: Any) -> Any:
    """Pick sizes out of a shape whose numbers are known, though the whole shape is not."""
    import tensorflow as tf

    if not tf.is_symbolic_tensor(shape):
        return None
    known = partly_known(shape)
    if known is None:
        return None
    picked = [known[int(i)] for i in indices.reshape(-1)]
    if None in picked:
        # A slice keeps what TensorFlow knows of a shape, a gather loses it.
        if indices.ndim == 0:
            return shape[int(indices)]
        return tf.stack([shape[int(i)] for i in indices.reshape(-1)]) if indices.ndim == 1 else None
    dtype = shape.dtype.as_numpy_dtype
    return constant(np.array(picked, dtype).reshape(indices.shape))


@operator("GatherND")
def _gather_nd(node: Node, x: Any, indices: Any) -> Any:
    import tensorflow as tf

    batch = node.get("batch_dims", 0)
    depth = indices.shape[-1]
    shape = tf.cast(tf.shape(x)[batch : batch + depth], indices.dtype)
    return tf.gather_nd(x, normalized(indices, shape), batch_dims=batch)


def _coordinates(x: Any, indices: Any, axis: int) -> Any:
    """Make full coordinates of `indices`, which differ from their own positions only along one axis."""
    import tensorflow as tf

    shape = tf.shape(indices)
    grids = []
    for i in range(indices.shape.rank):
        if i == axis:
            grids.append(tf.cast(normalized(indices, sizes(x)[axis]), tf.int32))
            continue
        line = tf.reshape(tf.range(shape[i]), [-1 if j == i else 1 for j in range(indices.shape.rank)])
        grids.append(tf.broadcast_to(line, shape))
    return tf.stack(grids, -1)


@operator("GatherElements")
def _gather_elements(node: Node, x: Any, indices: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis", 0) % x.shape.rank
    result = tf.gather_nd(x, _coordinates(x, indices, axis))
    result.set_shape(indices.shape)
    return result


@operator("ScatterElements", "Scatter")
def _scatter_elements(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    axis = node.get("axis", 0) % x.shape.rank
    return _scattered(node, x, _coordinates(x, indices, axis), updates)


@operator("ScatterND")
def _scatter_nd(node: Node, x: Any, indices: Any, updates: Any) -> Any:
    import tensorflow as tf

    depth = indices.shape[-1]
    shape = tf.cast(tf.shape(x)[:depth], indices.dtype)
    return _scattered(node, x, normalized(indices, shape), updates)


def _scattered(node: Node, x: Any, places: Any, updates: Any) -> Any:
    import tensorflow as tf

    reduction = node.get("reduction", "none")
    if reduction == "mul":
        raise node.refuse("it multiplies into places")
    if x.dtype == tf.bool:
        number = tf.tensor_scatter_nd_update(tf.cast(x, tf.int32), places, tf.cast(updates, tf.int32))
        return tf.cast(number, tf.bool)
    place = {
        "none": tf.tensor_scatter_nd_update,
        "add": tf.tensor_scatter_nd_add,
        "max": tf.tensor_scatter_nd_max,
        "min": tf.tensor_scatter_nd_min,
    }[reduction]
    return place(x, places, updates)


@operator("TensorScatter")
def _tensor_scatter(node: Node, past: Any, update: Any, write: Any = None) -> Any:
    import tensorflow as tf

    if node.get("mode", "linear") != "linear":
        raise node.refuse("it writes in a circle")
    axis = node.get("axis", -2) % past.shape.rank
    length = sizes(update)[axis]
    batch = sizes(past)[0]
    start = tf.zeros([batch], tf.int64) if write is None else write
    positions = tf.cast(start, tf.int32)[:, None] + tf.range(length)[None]
    order = [0, axis, *[i for i in range(1, past.shape.rank) if i != axis]]
    back = [order.index(i) for i in range(past.shape.rank)]
    rows = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(positions))
    places = tf.stack([rows, positions], -1)
    return tf.transpose(
        tf.tensor_scatter_nd_update(tf.transpose(past, order), places, tf.transpose(update, order)), back
    )


@operator("OneHot")
def _one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Any:
    import tensorflow as tf

    known = static(depth)
    count = int(known.reshape(-1)[0]) if known is not None else tf.cast(tf.reshape(depth, []), tf.int32)
    whole = indices if indices.dtype.is_integer else tf.cast(indices, tf.int64)
    places = tf.where(whole < 0, whole + tf.cast(count, whole.dtype), whole)
    axis = node.get("axis", -1)
    axis = axis + indices.shape.rank + 1 if axis < -1 else axis
    return tf.one_hot(places, count, on_value=values[1], off_value=values[0], axis=axis)


@operator("NonZero")
def _non_zero(node: Node, x: Any) -> Any:
    import tensorflow as tf

    condition = x if x.dtype == tf.bool else tf.not_equal(x, tf.zeros([], x.dtype))
    if x.shape.rank == 0:
        condition = condition[None]
    return tf.transpose(tf.where(condition))


@operator("Compress")
def _compress(node: Node, x: Any, condition: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis")
    if axis is None:
        x, axis = tf.reshape(x, [-1]), 0
    places = tf.reshape(tf.where(condition), [-1])
    return tf.gather(x, places, axis=axis)


@operator("ReverseSequence")
def _reverse_sequence(node: Node, x: Any, lengths: Any) -> Any:
    import tensorflow as tf

    return tf.reverse_sequence(x, lengths, seq_axis=node.get("time_axis", 0), batch_axis=node.get("batch_axis", 1))


@operator("Unique")
def _unique(node: Node, x: Any) -> list[Any]:
    import tensorflow as tf

    if node.get("axis") is not None or len([name for name in node.outputs[1:] if name]):
        raise node.refuse("it wants more than the distinct elements of a flat tensor")
    found = tf.unique(tf.reshape(x, [-1])).y
    return [tf.sort(found) if node.get("sorted", 1) else found]
