"""Resizing of images: nearest, linear and cubic, by weights that are computed for each axis.

TensorFlow's own kernels know only some of ONNX's coordinate transformations, so each axis is resized by
picking its neighbours and weighing them. Linear resizing by half-pixel centres or aligned corners, the two
that TensorFlow Lite has kernels for, uses TensorFlow's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Image,
    Node,
    axes_of,
    channels_last,
    operator,
    partly_known,
    plain,
    sizes,
    static,
)


@operator("Resize", images=True)
def _resize(node: Node, x: Any, *inputs: Any) -> Any:
    given = [plain(value) for value in inputs] + [None] * 3
    roi, scales, target = (None, given[0], None) if node.opset < 11 else (given[0], given[1], given[2])
    rank = x.last.shape.rank if isinstance(x, Image) else plain(x).shape.rank
    axes = axes_of(node, None, rank) or list(range(rank))
    transform = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if transform == "tf_crop_and_resize":
        raise node.refuse("it crops a region first")
    del roi
    scaled = node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    wanted, factors = _targets(node, x, axes, scales, target)
    native = _native(node, x, axes, wanted, factors, transform, _gives(target) and not scaled)
    if native is not None:
        return native
    result = plain(x)
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        result = _along(node, result, axis, size, factor, transform)
    return result


@operator("Upsample")
def _upsample(node: Node, x: Any, scales: Any = None) -> Any:
    import tensorflow as tf

    factors = tf.constant(node.get("scales"), tf.float32) if scales is None else scales
    made = Node("Resize", node.name, {"mode": node.get("mode", "nearest"), "nearest_mode": "floor"}, 10, node.outputs)
    return _resize(made, x, factors)


def _targets(node: Node, x: Any, axes: list[int], scales: Any, target: Any) -> tuple[list[Any], list[Any]]:
    """Return the new size and the scale of each axis."""
    own = [sizes(plain(x))[axis] for axis in axes]
    if _gives(target):
        known = partly_known(target) or [None] * len(axes)
        wanted = [target[i] if size is None else size for i, size in enumerate(known)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        # The batch is never resized; where its size is open, so is the proof.
        batch = [axis == 0 and not isinstance(old, int) for axis, old in zip(axes, own, strict=True)]
        wanted = [old if same else new for new, old, same in zip(wanted, own, batch, strict=True)]
        factors = [1.0 if same else _ratio(new, old) for new, old, same in zip(wanted, own, batch, strict=True)]
        if policy == "stretch":
            return wanted, factors
        if not all(isinstance(factor, float) for factor in factors):
            raise node.refuse("it keeps the aspect ratio of an image of open size")
        factor = min(factors) if policy == "not_larger" else max(factors)
        return [int(np.floor(factor * old + 0.5)) for old in own], [factor] * len(axes)
    values = static(scales)
    if values is None:
        raise node.refuse("its scales are computed by the model")
    factors = [float(value) for value in values]
    return [_scaled(old, factor) for old, factor in zip(own, factors, strict=True)], factors


def _gives(target: Any) -> bool:
    """Whether the input that holds sizes is there and not empty."""
    return target is not None and (target.shape.rank is None or target.shape[0] != 0)


def _ratio(new: Any, old: Any) -> Any:
    import tensorflow as tf

    if isinstance(new, int) and isinstance(old, int):
        return float(new) / float(old)
    return tf.cast(new, tf.float32) / tf.cast(old, tf.float32)


def _scaled(size: Any, factor: float) -> Any:
    import tensorflow as tf

    if isinstance(size, int):
        return int(np.floor(size * factor))
    if factor == int(factor):
        return size * int(factor)
    return tf.cast(tf.floor(tf.cast(size, tf.float32) * factor), tf.int32)


def _native(
    node: Node, x: Any, axes: list[int], wanted: list[Any], factors: list[Any], transform: str, given: bool
) -> Any:
    """Use TensorFlow's kernel for images where it computes exactly this.

    `given` says that the model gives sizes; the scales follow from them then, in the kernel as in ONNX.
    """
    import tensorflow as tf

    rank = x.last.shape.rank if isinstance(x, Image) else plain(x).shape.rank
    others = [factor for axis, factor in zip(axes, factors, strict=True) if axis not in (2, 3)]
    if not all(isinstance(factor, float) for factor in others):
        return None
    place = dict(zip(axes, wanted, strict=True))
    scale = dict(zip(axes, factors, strict=True))
    if rank != 4 or any(factor != 1.0 for factor in others) or not {2, 3} <= set(axes) or node.get("antialias", 0):
        return None
    dtype = x.last.dtype if isinstance(x, Image) else plain(x).dtype
    if dtype != tf.float32:
        return None
    size = tf.stack([place[2], place[3]]) if any(tf.is_tensor(place[i]) for i in (2, 3)) else [place[2], place[3]]
    mode = node.get("mode", "nearest")
    aligned = transform == "align_corners"
    # A size that was rounded down keeps its scale in ONNX; the kernel would compute its own.
    exact = all(isinstance(scale[i], float) and scale[i] == int(scale[i]) for i in (2, 3))
    exact = exact or (given and (aligned or transform == "half_pixel"))
    half = transform in ("half_pixel", "pytorch_half_pixel")
    if mode == "linear" and exact and (aligned or half):
        return Image(
            tf.raw_ops.ResizeBilinear(
                images=channels_last(x), size=tf.cast(size, tf.int32), align_corners=aligned, half_pixel_centers=half
            )
        )
    whole = mode == "nearest" and exact and not aligned
    if whole and transform == "asymmetric" and node.get("nearest_mode", "round_prefer_floor") == "floor":
        return Image(tf.raw_ops.ResizeNearestNeighbor(images=channels_last(x), size=tf.cast(size, tf.int32)))
    return None


def _along(node: Node, x: Any, axis: int, size: Any, factor: Any, transform: str) -> Any:
    """Resize one axis."""
    import tensorflow as tf

    old = sizes(x)[axis]
    if isinstance(factor, float) and factor == 1.0:
        return x
    where = _origin(tf, transform, tf.cast(tf.range(size), tf.float32), old, size, factor)
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        return tf.gather(x, tf.clip_by_value(_rounded(tf, node, where), 0, old - 1), axis=axis)
    neighbours, weights = _kernel(tf, node, mode, where, factor)
    if node.get("exclude_outside", 0):
        inside = tf.logical_and(neighbours >= 0, neighbours <= old - 1)
        weights = tf.where(inside, weights, 0.0)
        weights = weights / tf.reduce_sum(weights, -1, keepdims=True)
    picked = tf.gather(x, tf.clip_by_value(neighbours, 0, old - 1), axis=axis)
    shape = [1] * x.shape.rank
    shape[axis : axis + 1] = [-1, weights.shape[-1]]
    result = tf.reduce_sum(tf.cast(picked, tf.float32) * tf.reshape(weights, shape), axis + 1)
    return tf.cast(result, x.dtype)


def _origin(tf: Any, transform: str, positions: Any, old: Any, new: Any, factor: Any) -> Any:
    """Where in the input each position of the output lies."""
    old_size = tf.cast(old, tf.float32)
    # With scales, ONNX places the corners by the size before it is rounded down.
    new_size = old_size * factor
    if transform == "asymmetric":
        return positions / factor
    if transform == "align_corners":
        return tf.where(new_size > 1, positions * (old_size - 1) / tf.maximum(new_size - 1, 1.0), 0.0)
    half = (positions + 0.5) / factor - 0.5
    if transform == "pytorch_half_pixel":
        return tf.where(new > 1, half, tf.zeros_like(half))
    if transform == "half_pixel_symmetric":
        adjustment = tf.cast(new, tf.float32) / new_size
        centre = old_size / 2
        return centre * (1 - adjustment) + half
    return half


def _rounded(tf: Any, node: Node, where: Any) -> Any:
    mode = node.get("nearest_mode", "round_prefer_floor")
    rounded = {
        "floor": lambda: tf.floor(where),
        "ceil": lambda: tf.math.ceil(where),
        "round_prefer_ceil": lambda: tf.floor(where + 0.5),
        "round_prefer_floor": lambda: tf.math.ceil(where - 0.5),
    }[mode]()
    return tf.cast(rounded, tf.int32)


def _kernel(tf: Any, node: Node, mode: str, where: Any, factor: Any) -> tuple[Any, Any]:
    """Return the neighbours of each position and their weights, one row per position."""
    if node.get("antialias", 0) and not isinstance(factor, float):
        raise node.refuse("it smooths by a scale that the model computes")
    smooth = bool(node.get("antialias", 0)) and factor < 1
    stretch = 1.0 / factor if smooth else 1.0
    reach = (1 if mode == "linear" else 2) * stretch
    count = 2 * int(np.ceil(reach))
    first = tf.floor(where) - (count // 2 - 1)
    offsets = tf.range(count, dtype=tf.float32)
    neighbours = first[:, None] + offsets[None]
    distance = tf.abs(where[:, None] - neighbours) / stretch
    if mode == "linear":
        weights = tf.maximum(1.0 - distance, 0.0)
    else:
        weights = _cubic(tf, distance, node.get("cubic_coeff_a", -0.75))
    if smooth:
        weights = weights / tf.reduce_sum(weights, -1, keepdims=True)
    return tf.cast(neighbours, tf.int32), weights


def _cubic(tf: Any, x: Any, a: float) -> Any:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return tf.where(x <= 1, near, tf.where(x < 2, far, tf.zeros_like(x)))


@operator("GridSample")
def _grid_sample(node: Node, x: Any, grid: Any) -> Any:
    """Sample an image at normalized coordinates, between its pixels."""
    import tensorflow as tf

    mode = {"bilinear": "linear"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    if x.shape.rank != 4 or mode not in ("linear", "nearest") or node.get("padding_mode", "zeros") == "reflection":
        raise node.refuse("only linear and nearest sampling of images, padded with zeros or the border, is")
    image = channels_last(x)
    height, width = sizes(x)[2:]
    aligned = bool(node.get("align_corners", 0))
    column, row = (_pixel(tf, grid[..., i], size, aligned) for i, size in ((0, width), (1, height)))
    if node.get("padding_mode", "zeros") == "border":
        column = tf.clip_by_value(column, 0.0, tf.cast(width - 1, tf.float32))
        row = tf.clip_by_value(row, 0.0, tf.cast(height - 1, tf.float32))
    if mode == "nearest":
        return Image(_pixels(tf, image, tf.round(row), tf.round(column), height, width))
    top, left = tf.floor(row), tf.floor(column)
    down, right = (row - top)[..., None], (column - left)[..., None]
    result = _pixels(tf, image, top, left, height, width) * (1 - down) * (1 - right)
    result += _pixels(tf, image, top, left + 1, height, width) * (1 - down) * right
    result += _pixels(tf, image, top + 1, left, height, width) * down * (1 - right)
    result += _pixels(tf, image, top + 1, left + 1, height, width) * down * right
    return Image(result)


def _pixel(tf: Any, coordinate: Any, size: Any, aligned: bool) -> Any:
    extent = tf.cast(size, tf.float32)
    return (coordinate + 1) / 2 * (extent - 1) if aligned else ((coordinate + 1) * extent - 1) / 2


def _pixels(tf: Any, image: Any, row: Any, column: Any, height: Any, width: Any) -> Any:
    """Pick pixels; those outside are zero."""
    y, x = tf.cast(row, tf.int32), tf.cast(column, tf.int32)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    places = tf.stack([tf.clip_by_value(y, 0, height - 1), tf.clip_by_value(x, 0, width - 1)], -1)
    return tf.gather_nd(image, places, batch_dims=1) * tf.cast(inside, image.dtype)[..., None]
