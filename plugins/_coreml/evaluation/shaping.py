"""Operators that change the sizes of a tensor, or the order of its axes, or join several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, bounded, flag, integer, integers, operator


@operator(exact=True)
def reshape(x: Tensor, shape: Any, release: int) -> Tensor:
    """Give x other sizes; 0 keeps one, counted from the left, or from the right since iOS 17."""
    sizes = list(integers(shape))
    shift = x.ndim - len(sizes) if release > 16 else 0
    for position, size in enumerate(sizes):
        if size == 0 and x.size:
            kept = position + shift
            sizes[position] = x.shape[kept] if 0 <= kept < x.ndim else 1
    return x.reshape(sizes)


@operator(exact=True)
def reshape_like(x: Tensor, ref_tensors: Any, begins: Any, ends: Any, end_masks: Any) -> Tensor:
    """Give x the sizes of cuts of other tensors' sizes."""
    tensors = ref_tensors if isinstance(ref_tensors, tuple) else (ref_tensors,)
    sizes: list[int] = []
    for tensor, first, last, to_end in zip(
        tensors, integers(begins), integers(ends), np.asarray(end_masks).reshape(-1), strict=True
    ):
        sizes += tensor.shape[first : None if to_end else last]
    return x.reshape(sizes)


@operator(exact=True)
def flatten2d(x: Tensor, axis: Any = 1) -> Tensor:
    """Join the axes before one, and those from it on."""
    axis = integer(axis)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator(exact=True)
def transpose(x: Tensor, perm: Any) -> Tensor:
    """Put the axes into another order."""
    return np.transpose(x, integers(perm))


@operator(exact=True)
def expand_dims(x: Tensor, axes: Any) -> Tensor:
    """Insert axes of one element."""
    return np.expand_dims(x, integers(axes))


@operator(exact=True)
def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Remove axes of one element; other axes stay."""
    chosen = integers(axes) if axes is not None else tuple(range(x.ndim))
    return np.squeeze(x, tuple(axis for axis in chosen if x.shape[axis] == 1))


@operator(exact=True)
def reverse(x: Tensor, axes: Any = None) -> Tensor:
    """Turn axes around, all where none is given."""
    return np.flip(x, integers(axes) if axes is not None else None)


@operator(exact=True)
def reverse_sequence(x: Tensor, lengths: Any, seq_axis: Any = 0, batch_axis: Any = 0) -> Tensor:
    """Turn the first elements of each sequence around."""
    sequence, batch = integer(seq_axis) % x.ndim, integer(batch_axis) % x.ndim
    result = np.array(x)
    for row, length in enumerate(integers(lengths)):
        place: list[Any] = [slice(None)] * x.ndim
        place[batch], place[sequence] = slice(row, row + 1), slice(0, length)
        result[tuple(place)] = np.flip(x[tuple(place)], sequence)
    return result


@operator(exact=True)
def tile(x: Tensor, reps: Any) -> Tensor:
    """Repeat x along its axes."""
    counts = integers(reps)
    bounded(size * count for size, count in zip(x.shape, counts, strict=True))
    return np.tile(x, counts)


@operator(exact=True)
def shape(x: Tensor) -> Tensor:
    """Return the sizes of x."""
    return np.array(x.shape, np.int32)


@operator(exact=True)
def concat(values: Any, axis: Any, interleave: Any = False) -> Tensor:
    """Join tensors along an axis, or take their elements by turns; scalars make a vector."""
    parts = [np.atleast_1d(value) for value in (values if isinstance(values, tuple) else (values,))]
    axis = integer(axis)
    if not flag(interleave):
        return np.concatenate(parts, axis)
    axis %= parts[0].ndim
    sizes = list(parts[0].shape)
    sizes[axis] *= len(parts)
    return np.stack(parts, axis + 1).reshape(sizes)


@operator(exact=True)
def stack(values: Any, axis: Any) -> Tensor:
    """Join tensors along a new axis."""
    return np.stack(values if isinstance(values, tuple) else (values,), integer(axis))
