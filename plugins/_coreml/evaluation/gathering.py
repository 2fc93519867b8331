"""Operators that pick elements by their positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, integer, operator

NEGATIVE_UNTIL = 16
"""The last release in which a negative position counts from the end."""


def positions(indices: Tensor, size: int, release: int) -> tuple[Tensor, Tensor]:
    """Return positions that can be used, and where they were outside the tensor.

    What is outside is undefined in Core ML. It must not be a pass by luck, so that whoever reads there
    spoils the result.
    """
    indices = np.asarray(indices).astype(np.int64)
    if release <= NEGATIVE_UNTIL:
        indices = np.where(indices < 0, indices + size, indices)
    outside = (indices < 0) | (indices >= size)
    return np.where(outside, 0, indices), outside


def spoiled(result: Tensor, where: Tensor) -> Tensor:
    """Overwrite elements by NaN, or by the least whole number, which is no position itself."""
    if not where.any():
        return result
    result = result.copy()
    kind = result.dtype.kind
    result[np.broadcast_to(where, result.shape)] = (
        np.nan if kind == "f" else False if kind == "b" else np.iinfo(result.dtype).min
    )
    return result


@operator(exact=True)
def gather(
    x: Tensor, indices: Tensor, release: int, axis: Any = 0, batch_dims: Any = 0, validate_indices: Any = False
) -> Tensor:
    """Take slices along an axis; the first `batch_dims` axes of both belong together."""
    axis, batch = integer(axis) % x.ndim, integer(batch_dims)
    if not x.shape[axis]:
        raise IndexError("there is nothing to take from")
    at, outside = positions(indices, x.shape[axis], release)
    lead = x.shape[:batch]
    grid = np.indices(lead, sparse=True)
    # The axes between those of the batch and the one that is taken from stay in front of the positions.
    moved = np.moveaxis(x, axis, batch)
    taken = moved[(*(part.reshape(part.shape + (1,) * (at.ndim - batch)) for part in grid), at)]
    count = at.ndim - batch
    where = outside.reshape(outside.shape + (1,) * (taken.ndim - outside.ndim))
    taken = spoiled(taken, where)
    return np.moveaxis(taken, range(batch, batch + count), range(axis, axis + count))


@operator(exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, release: int, axis: Any = 0, validate_indices: Any = False) -> Tensor:
    """Take elements along an axis, at positions of their own for every row."""
    axis = integer(axis) % x.ndim
    at, outside = positions(indices, x.shape[axis], release)
    return spoiled(np.take_along_axis(x, at, axis), outside)


@operator(exact=True)
def gather_nd(x: Tensor, indices: Tensor, release: int, batch_dims: Any = 0, validate_indices: Any = False) -> Tensor:
    """Take slices at positions whose coordinates lie on the last axis of `indices`."""
    batch, depth = integer(batch_dims), indices.shape[-1]
    found = [positions(indices[..., i], x.shape[batch + i], release) for i in range(depth)]
    grid = np.indices(x.shape[:batch], sparse=True)
    rank = indices.ndim - 1
    lead = [part.reshape(part.shape + (1,) * (rank - batch)) for part in grid]
    taken = np.asarray(x[(*lead, *(at for at, _ in found))])
    if not found:
        return taken
    outside = np.logical_or.reduce([where for _, where in found])
    return spoiled(taken, outside.reshape(outside.shape + (1,) * (taken.ndim - outside.ndim)))
