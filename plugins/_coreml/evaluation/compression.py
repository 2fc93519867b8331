"""Weights stored in fewer bits: scaled integers, indices into tables, and what is not zero alone.

Until iOS 17 indices and masks are packed into bytes, the sizes of the result stand beside them, and all is
in the operation's attributes; since iOS 18 narrow integers are element types of their own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, along, bounded, integer, integers, operator


def _unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    """Return integers that lie one after the other, from the least significant bit of each byte on."""
    flags = np.unpackbits(data.astype(np.uint8), bitorder="little", count=count * bits).reshape(count, bits)
    return (flags.astype(np.int64) << np.arange(bits)).sum(1)


def _blocks(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Repeat values so that each stands for its block of a tensor of another shape."""
    for axis, size in enumerate(shape):
        if size % values.shape[axis]:
            raise ValueError(f"{size} elements do not fall into {values.shape[axis]} blocks")
        values = np.repeat(values, size // values.shape[axis], axis)
    return values


def _dequantized(data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    wide = data.astype(np.float32)
    return (wide if offset is None else wide - offset.astype(np.float32)) * scale.astype(np.float32)


@operator()
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Any) -> Tensor:
    """Compute scale * (data - zero point), with one scale or one for each position on an axis."""
    rank, at = quantized_data.ndim, integer(axis)
    return _dequantized(quantized_data, along(scale, at, rank), along(zero_point, at, rank))


@operator()
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Compute scale * (data - offset), with one scale for each block."""
    spread = None if offset is None else _blocks(offset, data.shape)
    return _dequantized(data, _blocks(scale, data.shape), spread)


@operator()
def constexpr_lut_to_dense(indices: Tensor, lut: Tensor, shape: Any = None, vector_axis: Any = None) -> Tensor:
    """Look values up in a table, or in one for each block."""
    if shape is not None:
        sizes = bounded(integers(shape))
        bits = int(math.log2(lut.size))
        return lut[_unpacked(indices, bits, math.prod(sizes))].reshape(sizes)
    return _looked_up(indices, lut, vector_axis)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: Any) -> Tensor:
    """Look up in tables (*blocks, entries, elements of an entry); an entry's elements lie along `vector_axis`."""
    tables = lut.reshape(-1, *lut.shape[-2:])
    which = np.arange(len(tables)).reshape(lut.shape[:-2])
    found = tables[_blocks(which, indices.shape), indices.astype(np.int64)]
    if lut.shape[-1] == 1:
        return found[..., 0]
    at = integer(vector_axis) % indices.ndim
    sizes = list(indices.shape)
    sizes[at] *= lut.shape[-1]
    return np.moveaxis(found, -1, at + 1).reshape(sizes)


def _dense(data: Tensor, mask: Tensor) -> Tensor:
    result = np.zeros(mask.shape, data.dtype)
    result[mask != 0] = data
    return result


@operator()
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Any = None) -> Tensor:
    """Lay data out where a mask says; zeros elsewhere."""
    if shape is not None:
        sizes = bounded(integers(shape))
        mask = _unpacked(mask, 1, math.prod(sizes)).reshape(sizes)
    return _dense(nonzero_data, mask)


@operator()
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Any = None
) -> tuple[Tensor, Tensor]:
    """Look up what a mask leaves; return the mask of the result and its data."""
    dense = _looked_up(_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = np.repeat(mask, lut.shape[-1], integer(vector_axis))
    return mask, dense[mask != 0]


@operator()
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale what a mask leaves; return the mask and the scaled data."""
    dense = constexpr_blockwise_shift_scale(_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


@operator()
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """Leave the value as it is: the result is stored in the type that the program tells."""
    return source_val


@operator()
def quantize(
    input: Tensor,  # noqa: A002  the operator's own name for it
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Any = None,
) -> Tensor:
    """Round data / scale + zero point into the range of int8 or uint8."""
    at = 0 if axis is None else integer(axis)
    wide = np.rint(input / along(scale, at, input.ndim))
    if zero_point is not None:
        wide = wide + along(zero_point, at, input.ndim).astype(np.float32)
    limits = np.iinfo(output_dtype)
    return np.clip(wide, limits.min, limits.max)


@operator()
def dequantize(
    input: Tensor,  # noqa: A002
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: Any = None,
) -> Tensor:
    """Compute scale * (data - zero point)."""
    at = 0 if axis is None else integer(axis)
    offset = None if zero_point is None else along(zero_point, at, input.ndim)
    return _dequantized(input, along(scale, at, input.ndim), offset)
