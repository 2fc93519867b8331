"""Operators that cut tensors."""

from __future__ import annotations

from typing import Any

from registry_export_plugins._onnx_to_tf.common import (
    Node,
    axes_of,
    numbers,
    operator,
    sizes,
    static,
)


@operator("Split")
def _split(node: Node, x: Any, lengths: Any = None) -> list[Any]:
    import tensorflow as tf

    axis = node.get("axis", 0) % x.shape.rank
    given = numbers(node, lengths, "lengths") if lengths is not None else node.get("split")
    count = node.get("num_outputs") or len(node.outputs)
    if given is not None:
        return list(tf.split(x, list(given), axis))
    size = x.shape[axis]
    if size is None or size % count == 0:
        return list(tf.split(x, count, axis))
    each = -(-size // count)
    return list(tf.split(x, [each] * (count - 1) + [size - each * (count - 1)], axis))


@operator("Slice")
def _slice(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    begin, end = _bounds(node, starts, "starts"), _bounds(node, ends, "ends")
    where = axes_of(node, axes, rank) or list(range(len(begin)))
    stride = numbers(node, steps, "steps") if steps is not None else [1] * len(begin)
    index: list[Any] = [slice(None)] * rank
    for axis, low, high, step in zip(where, begin, end, stride, strict=True):
        index[axis] = _range_of(low, high, step, x.shape[axis])
    sliced = x[tuple(index)]
    return tf.identity(sliced) if sliced is x else sliced


def _bounds(node: Node, value: Any, name: str) -> list[Any]:
    """Read bounds as numbers, or as scalar tensors where the model computes them."""
    import tensorflow as tf

    if value is None:
        return list(node.get(name))
    known = static(value)
    if known is not None:
        return [int(number) for number in known.reshape(-1)]
    value = tf.reshape(value, [-1])
    return [value[i] for i in range(value.shape[0])]


def _range_of(low: Any, high: Any, step: int, size: int | None) -> slice:
    """Make the slice of one axis; bounds beyond the ends mean the ends."""
    largest = 2**31 - 1
    if isinstance(low, int) and abs(low) >= largest:
        low = None if (low > 0) == (step < 0) or (low < 0) == (step > 0) else low
    if isinstance(high, int) and abs(high) >= largest:
        high = None
    if isinstance(high, int) and size is not None and step < 0 and high < -size:
        high = None
    if isinstance(low, int) and size is not None and step < 0 and low >= size:
        low = None
    if isinstance(low, int) and size is not None and step > 0 and low < -size:
        low = None
    return slice(_int32(low), _int32(high), step)


def _int32(bound: Any) -> Any:
    """Bounds of one slice must agree in type; the model's are int64, TensorFlow's numbers int32."""
    import tensorflow as tf

    if bound is None or isinstance(bound, int):
        return bound
    return tf.cast(tf.clip_by_value(bound, -(2**31) + 1, 2**31 - 1), tf.int32)


@operator("Trilu")
def _trilu(node: Node, x: Any, diagonal: Any = None) -> Any:
    import tensorflow as tf

    rows, columns = sizes(x)[-2:]
    offset = tf.constant(0) if diagonal is None else tf.cast(tf.reshape(diagonal, []), tf.int32)
    difference = tf.range(columns)[None, :] - tf.range(rows)[:, None]
    kept = difference >= offset if node.get("upper", 1) else difference <= offset
    return tf.where(kept, x, tf.zeros([], x.dtype))
