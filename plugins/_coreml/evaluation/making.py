"""Operators that make tensors, or extend them, or keep parts of them."""

from __future__ import annotations

import math
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


@operator(exact=True)
def fill(shape: Any, value: Any = 0.0) -> Tensor:
    """Make a tensor of one value."""
    return np.full(bounded(integers(shape)), value)


@operator(exact=True)
def fill_like(ref_tensor: Tensor, value: Any = 0.0) -> Tensor:
    """Make a tensor of one value, with the sizes of another."""
    return np.full(ref_tensor.shape, value)


@operator()
def range_1d(start: Any, end: Any, step: Any) -> Tensor:
    """Count from `start` up to `end`, which is not reached."""
    first, stride = np.asarray(start).reshape(()), np.asarray(step).reshape(())
    count = math.ceil((number(end) - number(first)) / number(stride))
    return np.asarray(first + np.arange(*bounded([max(count, 0)])).astype(first.dtype) * stride)


@operator(exact=True)
def one_hot(indices: Tensor, one_hot_vector_size: Any, axis: Any = -1, on_value: Any = 1, off_value: Any = 0) -> Tensor:
    """Mark each position on a new axis; one outside it is marked nowhere."""
    size = integer(one_hot_vector_size)
    bounded([*indices.shape, size])
    marked = indices[..., None] == np.arange(size)
    return np.moveaxis(np.where(marked, on_value, off_value), -1, integer(axis))


@operator(exact=True)
def pad(x: Tensor, pad: Any, mode: str = "constant", constant_val: Any = 0.0) -> Tensor:
    """Add elements around the last axes: a constant, the mirrored neighbours or the outermost ones."""
    flat = integers(pad)
    widths = [(0, 0)] * (x.ndim - len(flat) // 2) + list(zip(flat[::2], flat[1::2], strict=True))
    bounded(size + before + after for size, (before, after) in zip(x.shape, widths, strict=True))
    if mode == "constant":
        return np.pad(x, widths, constant_values=np.asarray(constant_val).astype(x.dtype))
    if mode == "reflect":
        if any(max(sides) > max(size - 1, 0) for size, sides in zip(x.shape, widths, strict=True)):
            raise ValueError("there are not so many elements to mirror")
        return np.pad(x, widths, mode="reflect")
    if mode == "replicate":
        return np.pad(x, widths, mode="edge")
    raise unknown(f"pad in mode {mode}")


@operator(exact=True)
def band_part(x: Tensor, lower: Any = -1, upper: Any = -1) -> Tensor:
    """Keep the diagonals around the main one; zeros elsewhere."""
    below, above = integer(lower), integer(upper)
    rows, columns = np.indices(x.shape[-2:], sparse=True)
    kept = ((below < 0) | (rows - columns <= below)) & ((above < 0) | (columns - rows <= above))
    return np.where(kept, x, np.zeros_like(x))


@operator()
def cumsum(x: Tensor, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Tensor:
    """Add up along an axis, without the element itself where `exclusive`, from the end where `reverse`."""
    axis = integer(axis)
    turned = np.flip(x, axis) if flag(reverse) else x
    total = np.cumsum(turned, axis, dtype=np.float64 if x.dtype.kind == "f" else x.dtype)
    if flag(exclusive):
        first = np.zeros_like(np.take(total, [0], axis))
        total = np.concatenate([first, np.delete(total, -1, axis)], axis)
    return np.flip(total, axis) if flag(reverse) else total
