"""Convolutions, as products of matrices.

The windows of an input are laid out as columns, a block of rows at a time so that they need little memory,
and multiplied with the weights by BLAS.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, along, bounded, integer, integers, operator
from registry_export_plugins._coreml.evaluation.windows import Pads, halves, padded, padding, pairs, spread, windows_of

_BLOCK = 2**23
"""Elements of the windows that are laid out at a time."""


@operator()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Tensor:
    """Convolve x, laid out as (batch, channels, ...), with weights (channels out, channels in of a group, ...)."""
    rank = x.ndim - 2
    kernel, step, gap = weight.shape[2:], spread(strides, rank), spread(dilations, rank)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, gap, strict=True)]
    x = padded(x, padding(pad_type, pad, x.shape[2:], reach, step))
    every = tuple(slice(None, None, s) for s in step)
    inside = tuple(slice(None, None, d) for d in gap)
    windows = windows_of(x, reach, tuple(range(2, x.ndim)))
    windows = windows[(slice(None), slice(None), *every, *inside)]
    result = _product(windows, weight, integer(groups), rank)
    return result if bias is None else result + along(bias, 1, x.ndim)


def _product(windows: Tensor, weight: Tensor, groups: int, rank: int) -> Tensor:
    """Multiply windows (batch, channels, *positions, *kernel) with the weights."""
    batch, channels, *rest = windows.shape
    positions = rest[:rank]
    depth = channels // groups * math.prod(rest[rank:])
    matrix = weight.reshape(groups, weight.shape[0] // groups, depth)
    result = np.empty(bounded((batch, weight.shape[0], *positions)), np.result_type(windows, weight))
    rows = max(1, _BLOCK // max(1, groups * depth * math.prod(positions[1:])))
    kernel_first = (0, *range(rank + 1, 2 * rank + 1), *range(1, rank + 1))
    for image, first in itertools.product(range(batch), range(0, positions[0], rows)):
        block = windows[image, :, first : first + rows].transpose(kernel_first)
        columns = np.ascontiguousarray(block).reshape(groups, depth, -1)
        result[image, :, first : first + rows] = np.matmul(matrix, columns).reshape(weight.shape[0], -1, *positions[1:])
    return result


@operator()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: str = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: Any = 1,
) -> Tensor:
    """Spread x over weights (channels in, channels out of a group, ...): the gradient of a convolution."""
    rank = x.ndim - 2
    kernel, step, gap = weight.shape[2:], spread(strides, rank), spread(dilations, rank)
    whole = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(x.shape[2:], kernel, step, gap, strict=True)]
    result = _spread_out(x, weight, integer(groups), whole, step, gap)
    wanted = integers(output_shape)[2:] if output_shape is not None else None
    result = padded(result, _cut(pad_type, pad, whole, [n * s for n, s in zip(x.shape[2:], step, strict=True)], wanted))
    return result if bias is None else result + along(bias, 1, x.ndim)


def _spread_out(
    x: Tensor, weight: Tensor, groups: int, whole: list[int], step: tuple[int, ...], gap: tuple[int, ...]
) -> Tensor:
    batch, channels = x.shape[:2]
    kernel, outputs = weight.shape[2:], weight.shape[1]
    matrix = weight.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
    result = np.zeros(bounded((batch, groups * outputs, *whole)), np.result_type(x, weight))
    for image in range(batch):
        columns = np.matmul(matrix, x[image].reshape(groups, channels // groups, -1))
        columns = columns.reshape(groups * outputs, *kernel, *x.shape[2:])
        for place in itertools.product(*map(range, kernel)):
            target: tuple[Any, ...] = tuple(
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, gap, x.shape[2:], step, strict=True)
            )
            result[image, :][(slice(None), *target)] += columns[(slice(None), *place)]
    return result


def _cut(pad_type: str, pad: Any, whole: list[int], same: list[int], wanted: tuple[int, ...] | None) -> Pads:
    """Return what is taken away around the whole result, as negative padding; a positive one adds zeros at the end."""
    if pad_type == "same":
        sizes = wanted if wanted is not None else same
        before = [halves(max(n - size, 0))[0] for n, size in zip(whole, sizes, strict=True)]
    else:
        given = pairs(pad if pad_type == "custom" else None, len(whole))
        before = [first for first, _ in given]
        sizes = wanted if wanted is not None else [n - sum(pair) for n, pair in zip(whole, given, strict=True)]
    return [(-first, size + first - n) for first, size, n in zip(before, sizes, whole, strict=True)]
