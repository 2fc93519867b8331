"""Operators that write elements to positions, in one of several ways."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.gathering import positions
from registry_export_plugins._coreml.evaluation.registry import Tensor, integer, operator, unknown

_MODES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _written(data: Tensor, place: tuple[Any, ...], updates: Tensor, mode: str) -> Tensor:
    result = np.array(data)
    if mode == "update":
        result[place] = updates
        return result
    if mode not in _MODES:
        raise unknown(f"scatter in mode {mode}")
    wide = result.astype(np.float64) if mode == "div" else result
    _MODES[mode].at(wide, place, updates)
    return wide


def _inside(indices: Tensor, size: int, release: int) -> Tensor:
    """Return positions that can be written to.

    Raises:
        IndexError: Core ML leaves undefined what a write outside the tensor does.
    """
    at, outside = positions(indices, size, release)
    if outside.any():
        raise IndexError("it writes outside the tensor, which is undefined in Core ML")
    return at


@operator()
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    release: int,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Tensor:
    """Write slices to positions along an axis."""
    axis = integer(axis) % data.ndim
    at = _inside(indices, data.shape[axis], release)
    return _written(data, (slice(None),) * axis + (at,), updates, mode)


@operator()
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    release: int,
    axis: Any = 0,
    mode: str = "add",
    validate_indices: Any = False,
) -> Tensor:
    """Write elements along an axis, to positions of their own for every row."""
    axis = integer(axis) % data.ndim
    at = _inside(indices, data.shape[axis], release)
    grid = list(np.indices(at.shape, sparse=True))
    grid[axis] = at
    return _written(data, tuple(grid), updates, mode)


@operator()
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, release: int, mode: str = "add", validate_indices: Any = False
) -> Tensor:
    """Write slices to positions whose coordinates lie on the last axis of `indices`."""
    place = tuple(_inside(indices[..., i], data.shape[i], release) for i in range(indices.shape[-1]))
    return _written(data, place, updates, mode)
