"""Boxes cut out of images and resized."""

from __future__ import annotations

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
from registry_export_plugins._coreml.evaluation.resizing import grid, interpolated

_ORDERS = {"HEIGHT_FIRST": (0, 1, 2, 3), "WIDTH_FIRST": (1, 0, 3, 2)}


def _corners(box: Tensor, mode: str) -> tuple[float, float, float, float]:
    """Return top, left, bottom and right of a box."""
    layout, _, order = mode.partition("_SIZE_") if "_SIZE_" in mode else mode.partition("_")
    if layout not in ("CORNERS", "CENTER") or order not in _ORDERS:
        raise unknown(f"crop_resize with boxes as {mode}")
    a, b, c, d = (float(box[i]) for i in _ORDERS[order])
    return (a, b, c, d) if layout == "CORNERS" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)


def _samples(image: Tensor, axis: int, ends: tuple[float, float], count: int, mode: str, outside: float) -> Tensor:
    """Sample an image along an axis between two ends; what lies outside it is a constant."""
    points = ends[0] + grid(mode, ends[1] - ends[0] + 1, count)
    size = image.shape[axis]
    sampled = interpolated(image, axis, np.clip(points, 0, size - 1))
    beyond = (points < 0) | (points > size - 1)
    shape = [-1 if i == axis % image.ndim else 1 for i in range(image.ndim)]
    return np.where(beyond.reshape(shape), np.float32(outside), sampled)


@operator()
def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Any = None,
    target_height: Any = 1,
    target_width: Any = 1,
    normalized_coordinates: Any = False,
    spatial_scale: Any = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Any = 0.0,
) -> Tensor:
    """Cut boxes out of images and resize them.

    Until iOS 16 a `roi` of five numbers begins with the image's position, one of four is cut out of every
    image, and the result keeps an axis for these.
    """
    found = boxes if boxes is not None else roi
    if found is None:
        raise ValueError("it has no boxes")
    found = found.reshape(found.shape[0], -1).astype(np.float64)
    if boxes is not None:
        images = [[i] for i in (integers(box_indices) if box_indices is not None else range(len(found)))]
    elif found.shape[1] == 5:
        images, found = [[int(i)] for i in found[:, 0]], found[:, 1:]
    else:
        images = [list(range(len(x)))] * len(found)
    height, width = integer(target_height), integer(target_width)
    bounded((len(found), *x.shape[:2], height, width))
    scale = number(spatial_scale) * (
        np.array([x.shape[2] - 1, x.shape[3] - 1] * 2) if flag(normalized_coordinates) else np.ones(4)
    )
    cut = []
    for which, box in zip(images, found, strict=True):
        top, left, bottom, right = np.array(_corners(box, box_coordinate_mode)) * scale
        part = _samples(x[which], 2, (top, bottom), height, sampling_mode, number(pad_value))
        cut.append(_samples(part, 3, (left, right), width, sampling_mode, number(pad_value)))
    result = np.stack(cut) if cut else np.zeros((0, 1, x.shape[1], height, width), x.dtype)
    return result[:, 0] if boxes is not None else result
