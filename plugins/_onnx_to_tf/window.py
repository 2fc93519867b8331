"""How kernels slide over images: sizes, strides, dilations and padding, for convolutions and poolings."""

from __future__ import annotations

from typing import Any, NamedTuple

from registry_export_plugins._onnx_to_tf.common import Node


class Window(NamedTuple):
    """How a kernel slides: one entry per spatial dimension."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]

    @property
    def extent(self) -> list[int]:
        """How far each kernel reaches, its dilation included."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]


def window_of(node: Node, kernel: list[int]) -> Window:
    count = len(kernel)
    return Window(kernel, list(node.get("strides") or [1] * count), list(node.get("dilations") or [1] * count))


def space_of(last: Any) -> list[Any]:
    """The spatial sizes of a channels-last tensor: numbers, or scalar tensors where they are open."""
    import tensorflow as tf

    known = last.shape.as_list()[1:-1]
    if None not in known:
        return list(known)
    shape = tf.shape(last)
    return [shape[i + 1] if size is None else size for i, size in enumerate(known)]


def padding_of(node: Node, space: list[Any], window: Window) -> list[tuple[Any, Any]]:
    """Read `auto_pad` or `pads` as (before, after) for each spatial dimension."""
    mode = node.get("auto_pad", "NOTSET")
    count = len(window.kernel)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        padding = []
        for size, stride, extent in zip(space, window.strides, window.extent, strict=True):
            total = at_least_zero((ceil_div(size, stride) - 1) * stride + extent - size)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return padding
    pads = node.get("pads") if mode == "NOTSET" else None
    pads = list(pads) if pads else [0] * (2 * count)
    return [(pads[i], pads[count + i]) for i in range(count)]


def ceil_div(size: Any, stride: int) -> Any:
    return -(-size // stride)


def at_least_zero(value: Any) -> Any:
    import tensorflow as tf

    return max(value, 0) if isinstance(value, int) else tf.maximum(value, 0)


def is_zero(padding: list[tuple[Any, Any]]) -> bool:
    return all(isinstance(side, int) and side == 0 for pair in padding for side in pair)


def padded(last: Any, padding: list[tuple[Any, Any]], value: Any = 0) -> Any:
    """Pad the spatial dimensions; negative padding crops, as ONNX allows."""
    import tensorflow as tf

    if is_zero(padding):
        return last
    if any(isinstance(side, int) and side < 0 for pair in padding for side in pair):
        crops = tuple(slice(max(-b, 0), -max(-a, 0) or None) for b, a in padding)
        last = last[(slice(None), *crops)]
        padding = [(max(b, 0), max(a, 0)) for b, a in padding]
    return tf.pad(last, [(0, 0), *padding, (0, 0)], constant_values=tf.cast(value, last.dtype))


def is_same(padding: list[tuple[Any, Any]], window: Window, node: Node) -> bool:
    """Whether TensorFlow's own SAME padding is exactly this one, so that no padding is written."""
    if node.get("auto_pad", "NOTSET") == "SAME_UPPER":
        return True
    return all(
        stride == 1 and (before, after) == ((extent - 1) // 2, extent - 1 - (extent - 1) // 2)
        for (before, after), stride, extent in zip(padding, window.strides, window.extent, strict=True)
    )
