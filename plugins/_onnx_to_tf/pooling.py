"""Poolings over windows and over whole images, in one, two and three dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import Image, Node, channels_last, embedded, folding, operator, plain
from registry_export_plugins._onnx_to_tf.window import (
    Window,
    at_least_zero,
    ceil_div,
    is_same,
    is_zero,
    padded,
    padding_of,
    space_of,
    window_of,
)


def _ceiling(node: Node, space: list[Any], padding: list[tuple[Any, Any]], window: Window) -> list[tuple[Any, Any]]:
    """How much wider the last window reaches where sizes are rounded up."""
    import tensorflow as tf

    if not node.get("ceil_mode", 0):
        return [(0, 0)] * len(space)
    wider = []
    for size, (before, after), stride, extent in zip(space, padding, window.strides, window.extent, strict=True):
        room = size + before + after - extent
        count = ceil_div(room, stride) + 1
        outside = (count - 1) * stride >= size + before
        # A window that starts beyond the input and its padding before is not counted.
        count = count - int(outside) if isinstance(outside, bool) else count - tf.cast(outside, tf.int32)
        wider.append((0, at_least_zero((count - 1) * stride - room)))
    return wider


@operator("MaxPool", images=True)
def _max_pool(node: Node, x: Any) -> Any:
    import tensorflow as tf

    if len([name for name in node.outputs if name]) > 1:
        raise node.refuse("its second output, the places of the maxima, is used")
    last = channels_last(x if isinstance(x, Image) else plain(x))
    dtype = last.dtype
    if dtype.is_integer:
        last = tf.cast(last, tf.float32)
    window = window_of(node, list(node.get("kernel_shape")))
    space = space_of(last)
    padding = padding_of(node, space, window)
    if len(space) < 3 and _poolable(window) and not node.get("ceil_mode", 0) and is_same(padding, window, node):
        return Image(tf.cast(_pooled(last, window, "MAX", "SAME"), dtype))
    wider = _ceiling(node, space, padding, window)
    padding = [(b, a + extra) for (b, a), (_, extra) in zip(padding, wider, strict=True)]
    last = _padded_for_maximum(last, padding, space, window)
    return Image(tf.cast(_pooled(last, window, "MAX", "VALID"), dtype))


def _padded_for_maximum(last: Any, padding: list[tuple[Any, Any]], space: list[Any], window: Window) -> Any:
    """Pad so that no maximum changes.

    Mirrored values do it wherever a window that reaches into the padding also holds what is mirrored there: then
    no value enters that the model does not have. The lowest float would do it always, but it stretches the range
    that an int8 tensor must cover until nothing else can be told apart.
    """
    import tensorflow as tf

    if is_zero(padding):
        return last
    mirrored = all(
        isinstance(side, int)
        and side >= 0
        and 2 * side <= size
        and (side <= 1 or (isinstance(room, int) and side <= room))
        for pair, size, room in zip(padding, window.kernel, space, strict=True)
        for side in pair
    )
    if mirrored and set(window.dilations) == {1} and len(space) < 3:
        return tf.pad(last, [(0, 0), *padding, (0, 0)], mode="SYMMETRIC")
    return padded(last, padding, last.dtype.min)


@operator("AveragePool", images=True)
def _average_pool(node: Node, x: Any) -> Any:
    last = channels_last(x if isinstance(x, Image) else plain(x))
    window = window_of(node, list(node.get("kernel_shape")))
    space = space_of(last)
    padding = padding_of(node, space, window)
    wider = _ceiling(node, space, padding, window)
    counted = bool(node.get("count_include_pad", 0))
    total = _averaged(padded(padded(last, padding), wider), window)
    if is_zero(wider) and (counted or is_zero(padding)):
        return Image(total)
    return Image(total / _shares(last, padding, wider, window, counted))


def _averaged(last: Any, window: Window) -> Any:
    return _pooled(last, window, "AVG", "VALID")


def _poolable(window: Window) -> bool:
    """Whether TensorFlow's pooling takes these strides."""
    shorter = all(stride <= size for stride, size in zip(window.strides, window.kernel, strict=True))
    return shorter and (set(window.dilations) == {1} or set(window.strides) == {1})


def _pooled(last: Any, window: Window, kind: str, padding: str) -> Any:
    import tensorflow as tf

    if len(window.kernel) == 3:
        return _pooled_volume(last, window, kind)
    if _poolable(window):
        return tf.nn.pool(last, window.kernel, kind, window.strides, padding, dilations=window.dilations)
    dense = tf.nn.pool(last, window.kernel, kind, [1] * len(window.kernel), padding, dilations=window.dilations)
    return dense[(slice(None), *(slice(None, None, stride) for stride in window.strides))]


def _pooled_volume(last: Any, window: Window, kind: str) -> Any:
    """Pool each layer of a volume, then across layers: TensorFlow Lite pools images only."""
    import tensorflow as tf

    depth, height, width = space_of(last)
    channels = last.shape[-1]
    layers = tf.reshape(last, tf.stack([-1, height, width, channels]))
    flat = _pooled(layers, Window(*(values[1:] for values in window)), kind, "VALID")
    height, width = space_of(flat)
    columns = tf.reshape(flat, tf.stack([-1, depth, height * width, channels]))
    across = Window(*([values[0], 1] for values in window))
    pooled = _pooled(columns, across, kind, "VALID")
    return tf.reshape(pooled, tf.stack([-1, space_of(pooled)[0], height, width, channels]))


def _shares(last: Any, padding: Any, wider: Any, window: Window, counted: bool) -> Any:
    """What part of each window is counted: the average of ones over the input and zeros around it."""
    import tensorflow as tf

    known = all(isinstance(side, int) for pair in [*padding, *wider] for side in pair)
    shape = last.shape.as_list()[1:-1]
    with folding() if known and None not in shape else folding(last):
        ones = tf.ones([1, *space_of(last), 1], last.dtype)
        ones = padded(ones, padding, 1 if counted else 0)
        shares = _averaged(padded(ones, wider), window)
    return embedded(shares)


@operator("GlobalAveragePool", "GlobalMaxPool", images=True)
def _global_pool(node: Node, x: Any) -> Any:
    import tensorflow as tf

    last = channels_last(x if isinstance(x, Image) else plain(x))
    reduce = tf.reduce_mean if node.op_type == "GlobalAveragePool" else tf.reduce_max
    return Image(reduce(last, list(range(1, last.shape.rank - 1)), keepdims=True))


@operator("LpPool", images=True)
def _lp_pool(node: Node, x: Any) -> Any:
    import tensorflow as tf

    last = channels_last(x if isinstance(x, Image) else plain(x))
    window = window_of(node, list(node.get("kernel_shape")))
    power = float(node.get("p", 2))
    space = space_of(last)
    padding = padding_of(node, space, window)
    wider = _ceiling(node, space, padding, window)
    powers = padded(padded(tf.pow(tf.abs(last), power), padding), wider)
    return Image(tf.pow(_averaged(powers, window) * float(np.prod(window.kernel)), 1 / power))


@operator("GlobalLpPool")
def _global_lp_pool(node: Node, x: Any) -> Any:
    import tensorflow as tf

    power = float(node.get("p", 2))
    return tf.pow(tf.reduce_sum(tf.pow(tf.abs(x), power), list(range(2, x.shape.rank)), keepdims=True), 1 / power)
