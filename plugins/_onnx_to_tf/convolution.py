"""Convolutions in one, two and three dimensions.

TensorFlow's CPU kernels and all of TensorFlow Lite's want the channels last, so these operators give
`Image` values: the order of axes changes back only where something needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Image,
    Node,
    Weight,
    channels_last,
    operator,
    plain,
    static,
)
from registry_export_plugins._onnx_to_tf.window import (
    Window,
    at_least_zero,
    is_same,
    is_zero,
    padded,
    padding_of,
    space_of,
    window_of,
)


@operator("Conv", images=True)
def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    import tensorflow as tf

    last = channels_last(x if isinstance(x, Image) else plain(x))
    kernel_shape = list(weight.array.shape if isinstance(weight, Weight) else weight.shape)
    window = window_of(node, [int(size) for size in kernel_shape[2:]])
    padding = padding_of(node, space_of(last), window)
    same = is_same(padding, window, node)
    last = last if same else padded(last, padding)
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
        return tf.nn.depthwise_conv2d(last, plain(kernel), [1, *window.strides, 1], padding, dilations=window.dilations)
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
    window = window_of(node, [int(size) for size in shape[2:]])
    space, count, groups = space_of(last), len(window.kernel), node.get("group", 1)
    kernel = _spread(_changed(weight, "last", lambda w: np.transpose(w, [*range(2, w.ndim), 1, 0])), window)
    full = [
        (size - 1) * stride + extent for size, stride, extent in zip(space, window.strides, window.extent, strict=True)
    ]
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
            total = at_least_zero(total)
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
    return result if is_zero(widened) else tf.pad(result, [(0, 0), *widened, (0, 0)])
