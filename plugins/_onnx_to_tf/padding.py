"""Padding."""

from __future__ import annotations

from typing import Any

from registry_export_plugins._onnx_to_tf.common import Node, axes_of, operator, sizes, static


@operator("Pad")
def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    where = axes_of(node, axes, rank) or list(range(rank))
    amounts = _pad_amounts(node, pads, len(where))
    fill = node.get("value", 0.0) if value is None else tf.reshape(value, [])
    pairs: list[tuple[Any, Any]] = [(0, 0)] * rank
    for i, axis in enumerate(where):
        pairs[axis] = (amounts[i], amounts[len(where) + i])
    x, pairs = _cropped(x, pairs)
    mode = node.get("mode", "constant")
    if mode == "constant":
        return tf.pad(x, pairs, constant_values=tf.cast(fill, x.dtype))
    if mode == "reflect":
        return _reflected(tf, x, pairs)
    return _gathered(tf, x, pairs, mode)


def _pad_amounts(node: Node, pads: Any, count: int) -> list[Any]:
    if pads is None:
        return list(node.get("pads") or node.get("paddings"))
    known = static(pads)
    if known is not None:
        return [int(number) for number in known]
    import tensorflow as tf

    amounts = tf.cast(pads, tf.int32)
    return [amounts[i] for i in range(2 * count)]


def _cropped(x: Any, pairs: list[tuple[Any, Any]]) -> tuple[Any, list[tuple[Any, Any]]]:
    """Cut where padding is negative."""
    if not any(isinstance(side, int) and side < 0 for pair in pairs for side in pair):
        return x, pairs
    low = [max(-before, 0) if isinstance(before, int) else 0 for before, _ in pairs]
    high = [max(-after, 0) if isinstance(after, int) else 0 for _, after in pairs]
    x = x[tuple(slice(begin, -end or None) for begin, end in zip(low, high, strict=True))]
    return x, [tuple(max(side, 0) if isinstance(side, int) else side for side in pair) for pair in pairs]  # type: ignore[misc]


def _reflected(tf: Any, x: Any, pairs: list[tuple[Any, Any]]) -> Any:
    fits = all(
        isinstance(side, int) and (size is None or side < size)
        for pair, size in zip(pairs, x.shape.as_list(), strict=True)
        for side in pair
    )
    return tf.pad(x, pairs, mode="REFLECT") if fits else _gathered(tf, x, pairs, "reflect")


def _gathered(tf: Any, x: Any, pairs: list[tuple[Any, Any]], mode: str) -> Any:
    """Repeat the edge, wrap around or reflect, by picking elements along each axis."""
    for axis, (before, after) in enumerate(pairs):
        if isinstance(before, int) and isinstance(after, int) and before == after == 0:
            continue
        size = sizes(x)[axis]
        places = tf.range(-before, size + after)
        if mode == "edge":
            places = tf.clip_by_value(places, 0, size - 1)
        elif mode == "wrap":
            places = tf.math.floormod(places, size)
        else:
            period = 2 * size - 2
            period = max(period, 1) if isinstance(period, int) else tf.maximum(period, 1)
            places = tf.math.floormod(places, period)
            places = tf.minimum(places, period - places)
        x = tf.gather(x, places, axis=axis)
    return x
