"""Operators that cut a tensor, or write into a cut of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, integer, integers, operator


def _place(
    rank: int, begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any, squeeze_mask: Any
) -> tuple[Any, ...]:
    """Return the index that begin, end, stride and their masks make."""
    first, last = integers(begin), integers(end)
    step = integers(stride) if stride is not None else (1,) * rank
    from_start, to_end, single = (
        tuple(bool(item) for item in np.asarray(mask).reshape(-1)) if mask is not None else (False,) * rank
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    return tuple(
        (0 if from_start[i] else first[i])
        if single[i]
        else slice(None if from_start[i] else first[i], None if to_end[i] else last[i], step[i])
        for i in range(rank)
    )


@operator(exact=True)
def slice_by_index(
    x: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:
    """Cut x as NumPy's slices do."""
    return np.asarray(x[_place(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)])


@operator(exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> Tensor:
    """Write into a cut of x."""
    place = _place(x.ndim, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = np.array(x)
    result[place] = np.reshape(update, result[place].shape)
    return result


@operator(exact=True)
def slice_by_size(x: Tensor, begin: Any, size: Any) -> Tensor:
    """Cut so many elements from a position on; -1 is all that follow."""
    place = []
    for whole, first, count in zip(x.shape, integers(begin), integers(size), strict=True):
        first = first + whole if first < 0 else first
        if not 0 <= first <= whole or (count != -1 and first + count > whole):
            raise IndexError(f"{count} elements from {first} on are not among {whole}")
        place.append(slice(first, None if count == -1 else first + count))
    return x[tuple(place)]


@operator(exact=True)
def split(x: Tensor, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> tuple[Tensor, ...]:
    """Cut x into parts along an axis."""
    axis = integer(axis)
    if split_sizes is None:
        return tuple(np.split(x, integer(num_splits), axis))
    sizes = integers(split_sizes)
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"parts of {sizes} do not make up {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@operator(exact=True)
def crop(x: Tensor, crop_height: Any, crop_width: Any) -> Tensor:
    """Take so many rows and columns off the sides of images."""
    (top, bottom), (left, right) = integers(crop_height), integers(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator(exact=True)
def sliding_windows(x: Tensor, axis: Any, size: Any, stride: Any = 1) -> Tensor:
    """Lay out all windows along an axis; their elements get an axis of their own after it."""
    axis = integer(axis) % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, integer(size), axis)
    windows = windows[(slice(None),) * axis + (slice(None, None, integer(stride)),)]
    return np.moveaxis(windows, -1, axis + 1)
