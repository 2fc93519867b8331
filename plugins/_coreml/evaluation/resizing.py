"""Operators that resize the last axes of a tensor, those of images mostly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import (
    Tensor,
    bounded,
    flag,
    integer,
    integers,
    number,
    operator,
    unknown,
)


def grid(mode: str, size: float, count: int) -> Tensor:
    """Return where `count` samples of `size` elements lie.

    Args:
        mode: One of the sampling modes of `resize_bilinear`.
        size: Elements that there are; of a box, one more than it is long.
        count: Samples to take.
    """
    steps = np.arange(*bounded([count]), dtype=np.float64)
    if mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (size / count) - 0.5
    elif mode == "DEFAULT":
        points = steps * (size / count)
    elif mode == "OFFSET_CORNERS":
        points = (steps + 0.5) * (max(1.0, size - 1) / count)
    elif mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
        points = steps * ((size - 1) / max(count - 1, 1))
    elif mode == "ALIGN_CORNERS":
        points = np.array([(size - 1) / 2])
    else:
        raise unknown(f"resize in mode {mode}")
    return np.clip(points, 0, size - 1)


def interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Sample x along an axis, between the two elements around each point."""
    last = x.shape[axis] - 1
    below = np.clip(np.floor(points).astype(np.int64), 0, last)
    above = np.minimum(below + 1, last)
    share = (points - below).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    low, high = np.take(x, below, axis), np.take(x, above, axis)
    return np.asarray(low + (high - low) * share.astype(np.float32))


def _linear(x: Tensor, sizes: Sequence[int], mode: str) -> Tensor:
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        x = interpolated(x, axis, grid(mode, x.shape[axis], size))
    return x


def _nearest(x: Tensor, axis: int, points: Tensor) -> Tensor:
    return np.take(x, np.clip(np.floor(points).astype(np.int64), 0, x.shape[axis] - 1), axis)


def _nearest_undisputed(x: Tensor, sizes: Sequence[int], name: str) -> Tensor:
    """Take the nearest elements where all conventions agree which they are.

    Raises:
        RuntimeAbsentError: They do not; Core ML's is not documented.
    """
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        scale = x.shape[axis] / size
        steps = np.arange(*bounded([size]))
        corners, centres = np.floor(steps * scale), np.floor((steps + 0.5) * scale)
        if not np.array_equal(corners, centres):
            raise unknown(f"{name} from {x.shape[axis]} to {size} elements")
        x = _nearest(x, axis, corners)
    return x


def _scaled(x: Tensor, scales: tuple[Any, Any]) -> list[int]:
    """Return the sizes of images scaled up; a factor of float32 is a little more or less than it says."""
    return [int(np.floor(np.float32(number(s)) * np.float32(n))) for s, n in zip(scales, x.shape[-2:], strict=True)]


@operator()
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Tensor:
    """Scale images by taking the elements at whole positions."""
    scales = (scale_factor_height, scale_factor_width)
    for axis, scale, size in zip((-2, -1), scales, _scaled(x, scales), strict=True):
        x = _nearest(x, axis, np.arange(*bounded([size])) / number(scale))
    return x


@operator()
def resize_nearest_neighbor(x: Tensor, target_size_height: Any, target_size_width: Any) -> Tensor:
    """Give images other sizes by taking the nearest elements."""
    return _nearest_undisputed(x, (integer(target_size_height), integer(target_size_width)), "resize_nearest_neighbor")


@operator()
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Tensor:
    """Scale images, interpolating."""
    corners = flag(align_corners)
    centres = not corners if half_pixel_centers is None else flag(half_pixel_centers)
    if corners and centres:
        raise unknown("upsample_bilinear with both align_corners and half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if centres else "DEFAULT"
    return _linear(x, _scaled(x, (scale_factor_height, scale_factor_width)), mode)


@operator()
def resize_bilinear(
    x: Tensor, target_size_height: Any = 1, target_size_width: Any = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Give images other sizes, interpolating."""
    return _linear(x, (integer(target_size_height), integer(target_size_width)), sampling_mode)


@operator()
def resize(
    x: Tensor, shape: Any, resized_dims: Any, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Give the last axes other sizes; 0 keeps one."""
    count = integer(resized_dims)
    wanted = integers(shape)[-count:] if count else ()
    sizes = [new or old for new, old in zip(wanted, x.shape[x.ndim - count :], strict=True)]
    if interpolation_mode == "LINEAR":
        return _linear(x, sizes, sampling_mode)
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode == "DEFAULT":
        return _nearest_undisputed(x, sizes, "resize")
    raise unknown(f"resize in mode {interpolation_mode}, {sampling_mode}")
