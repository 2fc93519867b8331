"""Images sampled at coordinates that are given, or that an affine transform makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import (
    Tensor,
    bounded,
    flag,
    integer,
    number,
    operator,
    unknown,
)


def _pixels(coordinates: Tensor, size: int, mode: str, corners: bool) -> Tensor:
    """Turn coordinates into positions of elements."""
    if mode == "unnormalized":
        return coordinates
    share = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    if mode not in ("normalized_minus_one_to_one", "normalized_zero_to_one"):
        raise unknown(f"resample with coordinates {mode}")
    return share * (size - 1) if corners else share * size - 0.5


def _reflected(points: Tensor, low: float, high: float) -> Tensor:
    """Mirror points at both ends until they lie between them."""
    length = high - low
    if length <= 0:
        return np.zeros_like(points)
    distance = np.abs(points - low) % (2 * length)
    return low + np.where(distance > length, 2 * length - distance, distance)


def _brought_in(points: Tensor, size: int, mode: str) -> Tensor:
    """Bring points outside the image into it, as the padding says; with a constant they stay."""
    if mode == "constant":
        return points
    if mode == "reflection":
        points = _reflected(points, 0, size - 1)
    elif mode == "symmetric":
        points = _reflected(points, -0.5, size - 0.5)
    elif mode != "border":
        raise unknown(f"resample with padding {mode}")
    return np.clip(points, 0, size - 1)


def _read(x: Tensor, rows: Tensor, columns: Tensor, constant: float) -> Tensor:
    """Read elements at whole positions of every image, a constant outside it."""
    height, width = x.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    at = np.clip(np.nan_to_num(rows), 0, height - 1).astype(np.int64)
    across = np.clip(np.nan_to_num(columns), 0, width - 1).astype(np.int64)
    batch = np.arange(len(x)).reshape(-1, 1, 1)
    taken = x[batch, :, at, across]
    return np.moveaxis(np.where(inside[..., None], taken, np.float32(constant)), -1, 1)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, mode: str, constant: float) -> Tensor:
    if mode == "nearest":
        return _read(x, np.rint(rows), np.rint(columns), constant)
    if mode != "bilinear":
        raise unknown(f"resample in mode {mode}")
    top, left = np.floor(rows), np.floor(columns)
    down, across = (rows - top)[:, None].astype(np.float32), (columns - left)[:, None].astype(np.float32)
    upper = _read(x, top, left, constant) * (1 - across) + _read(x, top, left + 1, constant) * across
    lower = _read(x, top + 1, left, constant) * (1 - across) + _read(x, top + 1, left + 1, constant) * across
    return np.asarray(upper * (1 - down) + lower * down)


@operator()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Any,
    coordinates_mode: str,
    align_corners: Any,
) -> Tensor:
    """Sample images at coordinates (x, y)."""
    corners = flag(align_corners)
    wide = coordinates.astype(np.float64)
    columns = _brought_in(_pixels(wide[..., 0], x.shape[3], coordinates_mode, corners), x.shape[3], padding_mode)
    rows = _brought_in(_pixels(wide[..., 1], x.shape[2], coordinates_mode, corners), x.shape[2], padding_mode)
    return _sampled(x, rows, columns, sampling_mode, number(padding_value))


@operator()
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: Any,
    output_width: Any,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Any,
    coordinates_mode: str,
    align_corners: Any,
) -> Tensor:
    """Sample images where an affine transform of the result's coordinates points to."""
    height, width = integer(output_height), integer(output_width)
    bounded((*x.shape[:2], height, width))
    corners = flag(align_corners)
    if coordinates_mode != "normalized_minus_one_to_one":
        raise unknown(f"affine with coordinates {coordinates_mode}")
    down, across = (_spaced(size, corners) for size in (height, width))
    points = np.stack(np.broadcast_arrays(across[None, :], down[:, None], np.ones((height, width))))
    matrix = np.broadcast_to(transform_matrix.reshape(-1, 2, 3), (len(x), 2, 3)).astype(np.float64)
    coordinates = np.einsum("nij,jhw->nhwi", matrix, points)
    return np.asarray(
        resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)
    )


def _spaced(size: int, corners: bool) -> Tensor:
    """Return the coordinates of a row's elements, from -1 to 1: of their centres, or of the outermost's."""
    if corners:
        return np.linspace(-1, 1, size) if size > 1 else np.array([-1.0])
    return (2 * np.arange(size) + 1) / size - 1
