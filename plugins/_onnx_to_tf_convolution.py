"""Convolutions and poolings, in one, two and three dimensions.

TensorFlow's CPU kernels and all of TensorFlow Lite's want the channels last, so these operators give
`Image` values: the order of axes changes back only where something needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from registry_export_plugins._onnx_to_tf_common import (
    Image,
    Node,
    Weight,
    channels_last,
    embedded,
    folding,
    operator,
    plain,
    static,
)


class Window(NamedTuple):
    """How a kernel slides: one entry per spatial dimension."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]

    @property
    def extent(self) -> list[int]:
        """How far each kernel reaches, its dilation included."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]


def _window(node: Node, kernel: list[int]) -> Window:
    count = len(kernel)
    return Window(kernel, list(node.get("strides") or [1] * count), list(node.get("dilations") or [1] * count))


def _space(last: Any) -> list[Any]:
    """The spatial sizes of a channels-last tensor: numbers, or scalar tensors where they are open."""
    import tensorflow as tf

    known = last.shape.as_list()[1:-1]
    if None not in known:
        return list(known)
    shape = tf.shape(last)
    return [shape[i + 1] if size is None else size for i, size in enumerate(known)]


def _padding(node: Node, space: list[Any], window: Window) -> list[tuple[Any, Any]]:
    """Read `auto_pad` or `pads` as (before, after) for each spatial dimension."""
    mode = node.get("auto_pad", "NOTSET")
    count = len(window.kernel)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        padding = []
        for size, stride, extent in zip(space, window.strides, window.extent, strict=True):
            total = _at_least_zero((_ceil_div(size, stride) - 1) * stride + extent - size)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return padding
    pads = node.get("pads") if mode == "NOTSET" else None
    pads = list(pads) if pads else [0] * (2 * count)
    return [(pads[i], pads[count + i]) for i in range(count)]


def _ceil_div(size: Any, stride: int) -> Any:
    return -(-size // stride)


def _at_least_zero(value: Any) -> Any:
    import tensorflow as tf

    return max(value, 0) if isinstance(value, int) else tf.maximum(value, 0)


def _is_zero(padding: list[tuple[Any, Any]]) -> bool:
    return all(isinstance(side, int) and side == 0 for pair in padding for side in pair)


def _padded(last: Any, padding: list[tuple[Any, Any]], value: Any = 0) -> Any:
    """Pad the spatial dimensions; negative padding crops, as ONNX allows."""
    import tensorflow as tf

    if _is_zero(padding):
        return last
    if any(isinstance(side, int) and side < 0 for pair in padding for side in pair):
        crops = tuple(slice(max(-b, 0), -max(-a, 0) or None) for b, a in padding)
        last = last[(slice(None), *crops)]
        padding = [(max(b, 0), max(a, 0)) for b, a in padding]
    return tf.pad(last, [(0, 0), *padding, (0, 0)], constant_values=tf.cast(value, last.dtype))


def _same(padding: list[tuple[Any, Any]], window: Window, node: Node) -> bool:
    """Whether TensorFlow's own SAME padding is exactly this one, so that no padding is written."""
    if node.get("auto_pad", "NOTSET") == "SAME_UPPER":
        return True
    return all(
        stride == 1 and (before, after) == ((extent - 1) // 2, extent - 1 - (extent - 1) // 2)
        for (before, after), stride, extent in zip(padding, window.strides, window.extent, strict=True)
    )


@operator("Conv", images=True)
def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import tensorflow as tf

    last = channels_last(x if isinstance(x, Image) else plain(x))
    kernel_shape = list(weight.array.shape if isinstance(weight, Weight) else weight.shape)
    window = _window(node, [int(size) for size in kernel_shape[2:]])
    padding = _padding(node, _space(last), window)
    same = _same(padding, window, node)
    last = last if same else _padded(last, padding)
    result = _convolved(last, weight, kernel_shape, window, "SAME" if same else "VALID", node.get("group", 1))
    return Image(result if bias is None else tf.nn.bias_add(result, plain(bias)))


def _convolved(last: Any, weight: Any, shape: list[int], window: Window, padding: str, groups: int) -> Any:
    import tensorflow as tf

    if len(window.kernel) == 1:
        # One dimension is two, one of them of size 1: there are more kernels for it.
        wide = Window([1, *window.kernel], [1, *window.strides], [1, *window.dilations])
        inserted = _changed(weight, "wide", lambda w: np.expand_dims(w, 2))
        result = _convolved(last[:, None], inserted, [*shape[:2], 1, *shape[2:]], wide, padding, groups)
        return tf.squeeze(result, 1)
    count = len(window.kernel)
    channels = last.shape[-1]
    strides_equal = len(set(window.strides)) == 1 or set(window.dilations) == {1}
    if groups > 1 and groups == channels and count == 2 and strides_equal and _square_depthwise(window):
        kernel = _depthwise_kernel(weight, groups)
        return tf.nn.depthwise_conv2d(
            last, plain(kernel), [1, *window.strides, 1], padding, dilations=window.dilations
        )
    kernel = _changed(weight, "last", lambda w: np.transpose(w, [*range(2, w.ndim), 1, 0]))
    if groups == 1 or (count == 2 and set(window.dilations) == {1}):
        return tf.nn.convolution(last, plain(kernel), window.strides, padding, dilations=window.dilations)
    parts = zip(tf.split(last, groups, -1), tf.split(plain(kernel), groups, -1), strict=True)
    return tf.concat(
        [tf.nn.convolution(x, w, window.strides, padding, dilations=window.dilations) for x, w in parts], -1
    )


def _square_depthwise(window: Window) -> bool:
    """TensorFlow's depthwise kernel wants equal strides, and stride 1 with dilations."""
    return len(set(window.strides)) == 1 and (set(window.dilations) == {1} or set(window.strides) == {1})


def _depthwise_kernel(weight: Any, groups: int) -> Any:
    """From (channels * multiplier, 1, h, w) to (h, w, channels, multiplier)."""
    import tensorflow as tf

    def change(array: Any) -> Any:
        return np.transpose(array.reshape(groups, -1, *array.shape[2:]), [2, 3, 0, 1])

    if isinstance(weight, Weight) or static(weight) is not None:
        return _changed(weight, "depthwise", change)
    return tf.transpose(tf.reshape(weight, [groups, -1, *weight.shape[2:]]), [2, 3, 0, 1])


def _changed(weight: Any, name: str, change: Any) -> Any:
    """Reorder a weight's axes: once if it is known, in the graph if it is computed."""
    import tensorflow as tf

    if isinstance(weight, Weight):
        return weight.derived(name, change)
    known = static(weight)
    if known is not None:
        return tf.constant(np.ascontiguousarray(change(known)))
    if name == "wide":
        return tf.expand_dims(weight, 2)
    return tf.transpose(weight, [*range(2, weight.shape.rank), 1, 0])


@operator("ConvTranspose", images=True)
def _conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import tensorflow as tf

    last = channels_last(x if isinstance(x, Image) else plain(x))
    shape = list(weight.array.shape if isinstance(weight, Weight) else weight.shape)
    window = _window(node, [int(size) for size in shape[2:]])
    space, count, groups = _space(last), len(window.kernel), node.get("group", 1)
    kernel = _spread(_changed(weight, "last", lambda w: np.transpose(w, [*range(2, w.ndim), 1, 0])), window)
    full = [(size - 1) * stride + extent for size, stride, extent in zip(space, window.strides, window.extent, strict=True)]
    inputs, kernels = [last], [kernel]
    if groups > 1:
        # A kernel is (..., outputs per group, inputs), so its groups lie on its last axis.
        inputs, kernels = tf.split(last, groups, -1), tf.split(kernel, groups, -1)
    results = [_upsampled(part, w, full, window.strides) for part, w in zip(inputs, kernels, strict=True)]
    result = results[0] if groups == 1 else tf.concat(results, -1)
    result = _cropped(node, result, full, _output_padding(node, space, window), window, count)
    return Image(result if bias is None else tf.nn.bias_add(result, plain(bias)))


def _spread(kernel: Any, window: Window) -> Any:
    """Write a kernel's dilation out as zeros: transposed convolutions have none on the CPU."""
    import tensorflow as tf

    if set(window.dilations) == {1}:
        return plain(kernel)
    values = static(kernel)
    if values is None:
        raise ValueError("a dilated transposed convolution's weights are computed by the model")
    wide = np.zeros([*window.extent, *values.shape[-2:]], values.dtype)
    wide[tuple(slice(None, None, dilation) for dilation in window.dilations)] = values
    return tf.constant(wide)


def _upsampled(last: Any, kernel: Any, full: list[Any], strides: list[int]) -> Any:
    import tensorflow as tf

    batch = last.shape[0] if last.shape[0] is not None else tf.shape(last)[0]
    channels = kernel.shape[-2]
    if len(full) == 1:
        shape = tf.stack([batch, 1, *full, channels])
        result = tf.nn.conv2d_transpose(last[:, None], kernel[None], shape, [1, 1, *strides, 1], "VALID")
        return tf.squeeze(result, 1)
    shape = tf.stack([batch, *full, channels])
    transposed = tf.nn.conv2d_transpose if len(full) == 2 else tf.nn.conv3d_transpose
    return transposed(last, kernel, shape, [1, *strides, 1], "VALID")


def _output_padding(node: Node, space: list[Any], window: Window) -> list[tuple[Any, Any, Any]]:
    """For each spatial dimension: what is cut before, cut after, and added after."""
    count = len(window.kernel)
    extra = list(node.get("output_padding") or [0] * count)
    wanted = node.get("output_shape")
    mode = node.get("auto_pad", "NOTSET")
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = list(node.get("pads") or [0] * (2 * count)) if mode == "NOTSET" else [0] * (2 * count)
        return [(pads[i], pads[count + i], extra[i]) for i in range(count)]
    sides = []
    for i in range(count):
        size = wanted[-count:][i] if wanted is not None else space[i] * window.strides[i]
        total = window.strides[i] * (space[i] - 1) + extra[i] + window.extent[i] - size
        if wanted is None:
            total = _at_least_zero(total)
        small = total // 2
        before, after = (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
        sides.append((before, after, extra[i]))
    return sides


def _cropped(node: Node, result: Any, full: list[Any], sides: Any, window: Window, count: int) -> Any:
    """Cut the borders of a full transposed convolution, or widen them with zeros."""
    import tensorflow as tf

    cuts: list[Any] = [slice(None)]
    widened: list[tuple[Any, Any]] = []
    for size, (before, after, extra) in zip(full, sides, strict=True):
        end = after - extra
        widened.append((max(-before, 0), max(-end, 0)) if isinstance(before, int) and isinstance(end, int) else (0, 0))
        start = max(before, 0) if isinstance(before, int) else before
        stop = size - (max(end, 0) if isinstance(end, int) else end)
        cuts.append(slice(start, stop))
    result = result[tuple(cuts)]
    return result if _is_zero(widened) else tf.pad(result, [(0, 0), *widened, (0, 0)])


def _ceiling(node: Node, space: list[Any], padding: list[tuple[Any, Any]], window: Window) -> list[tuple[Any, Any]]:
    """How much wider the last window reaches where sizes are rounded up."""
    import tensorflow as tf

    if not node.get("ceil_mode", 0):
        return [(0, 0)] * len(space)
    wider = []
    for size, (before, after), stride, extent in zip(space, padding, window.strides, window.extent, strict=True):
        room = size + before + after - extent
        count = _ceil_div(room, stride) + 1
        outside = (count - 1) * stride >= size + before
        # A window that starts beyond the input and its padding before is not counted.
        count = count - int(outside) if isinstance(outside, bool) else count - tf.cast(outside, tf.int32)
        wider.append((0, _at_least_zero((count - 1) * stride - room)))
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
    window = _window(node, list(node.get("kernel_shape")))
    space = _space(last)
    padding = _padding(node, space, window)
    if len(space) < 3 and _poolable(window) and not node.get("ceil_mode", 0) and _same(padding, window, node):
        return Image(tf.cast(_pooled(last, window, "MAX", "SAME"), dtype))
    wider = _ceiling(node, space, padding, window)
    padding = [(b, a + extra) for (b, a), (_, extra) in zip(padding, wider, strict=True)]
    last = _padded(last, padding, last.dtype.min)
    return Image(tf.cast(_pooled(last, window, "MAX", "VALID"), dtype))


@operator("AveragePool", images=True)
def _average_pool(node: Node, x: Any) -> Any:
    last = channels_last(x if isinstance(x, Image) else plain(x))
    window = _window(node, list(node.get("kernel_shape")))
    space = _space(last)
    padding = _padding(node, space, window)
    wider = _ceiling(node, space, padding, window)
    counted = bool(node.get("count_include_pad", 0))
    total = _averaged(_padded(_padded(last, padding), wider), window)
    if _is_zero(wider) and (counted or _is_zero(padding)):
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

    depth, height, width = _space(last)
    channels = last.shape[-1]
    layers = tf.reshape(last, tf.stack([-1, height, width, channels]))
    flat = _pooled(layers, Window(*(values[1:] for values in window)), kind, "VALID")
    height, width = _space(flat)
    columns = tf.reshape(flat, tf.stack([-1, depth, height * width, channels]))
    across = Window(*([values[0], 1] for values in window))
    pooled = _pooled(columns, across, kind, "VALID")
    result = tf.reshape(pooled, tf.stack([-1, _space(pooled)[0], height, width, channels]))
    return result


def _shares(last: Any, padding: Any, wider: Any, window: Window, counted: bool) -> Any:
    """What part of each window is counted: the average of ones over the input and zeros around it."""
    import tensorflow as tf

    known = all(isinstance(side, int) for pair in [*padding, *wider] for side in pair)
    shape = last.shape.as_list()[1:-1]
    with folding() if known and None not in shape else folding(last):
        ones = tf.ones([1, *_space(last), 1], last.dtype)
        ones = _padded(ones, padding, 1 if counted else 0)
        shares = _averaged(_padded(ones, wider), window)
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
    window = _window(node, list(node.get("kernel_shape")))
    power = float(node.get("p", 2))
    space = _space(last)
    padding = _padding(node, space, window)
    wider = _ceiling(node, space, padding, window)
    powers = _padded(_padded(tf.pow(tf.abs(last), power), padding), wider)
    return Image(tf.pow(_averaged(powers, window) * float(np.prod(window.kernel)), 1 / power))


@operator("GlobalLpPool")
def _global_lp_pool(node: Node, x: Any) -> Any:
    import tensorflow as tf

    power = float(node.get("p", 2))
    return tf.pow(tf.reduce_sum(tf.pow(tf.abs(x), power), list(range(2, x.shape.rank)), keepdims=True), 1 / power)
