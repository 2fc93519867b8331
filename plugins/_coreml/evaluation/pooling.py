"""Poolings: a maximum, a mean or a norm over windows, one axis after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, along, flag, integers, operator
from registry_export_plugins._coreml.evaluation.windows import Pads, padded, padding, spread


class _Windows:
    """Where the windows of a pooling lie; `pads` has what rounding up adds at the end as well."""

    def __init__(self, x: Tensor, kernel_sizes: Any, strides: Any, pad_type: str, pad: Any, ceil_mode: Any) -> None:
        self.kernel = integers(kernel_sizes)
        rank = len(self.kernel)
        self.steps = spread(strides, rank)
        self.sizes = x.shape[x.ndim - rank :]
        self.own: Pads = padding(pad_type, pad, self.sizes, self.kernel, self.steps)
        extra = [self._rounded_up(axis) if flag(ceil_mode) else 0 for axis in range(rank)]
        self.pads: Pads = [(a, b + more) for (a, b), more in zip(self.own, extra, strict=True)]

    def _rounded_up(self, axis: int) -> int:
        """Return what a last window, one that reaches beyond the padding, needs at the end."""
        size, width, step = self.sizes[axis], self.kernel[axis], self.steps[axis]
        total = sum(self.own[axis])
        count = -(-(size + total - width) // step) + 1
        if total > 0 and (count - 1) * step >= size + self.own[axis][0]:
            count -= 1
        return max((count - 1) * step + width - size - total, 0)

    def reduce(self, x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Combine the elements of every window of a padded x."""
        rank = len(self.kernel)
        for axis, (width, step) in enumerate(zip(self.kernel, self.steps, strict=True), x.ndim - rank):
            count = (x.shape[axis] - width) // step + 1
            parts = (
                x[(slice(None),) * axis + (slice(first, first + (count - 1) * step + 1, step),)]
                for first in range(width)
            )
            x = functools.reduce(combine, parts)
        return x


@operator()
def max_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Tensor:
    """Take the largest element of each window."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return windows.reduce(padded(x, windows.pads, -np.inf), np.maximum)


@operator()
def avg_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    exclude_padding_from_average: Any = False,
    ceil_mode: Any = False,
) -> Tensor:
    """Take the mean of each window; what rounding up adds never counts, padding unless it is excluded."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    total = windows.reduce(padded(x, windows.pads), np.add)
    counted = 0.0 if flag(exclude_padding_from_average) else 1.0
    rank = len(windows.sizes)
    for axis, (size, own, pads) in enumerate(zip(windows.sizes, windows.own, windows.pads, strict=True)):
        ones = padded(np.ones(size, np.float32), [own], counted)
        ones = padded(ones, [(0, pads[1] - own[1])])
        counts = _count(ones, windows.kernel[axis], windows.steps[axis])
        total = total / along(counts, total.ndim - rank + axis, total.ndim)
    return total


def _count(ones: Tensor, width: int, step: int) -> Tensor:
    return np.lib.stride_tricks.sliding_window_view(ones, width)[::step].sum(-1)


@operator()
def l2_pool(
    x: Tensor,
    kernel_sizes: Any,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    ceil_mode: Any = False,
) -> Tensor:
    """Take the Euclidean norm of each window."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.sqrt(windows.reduce(padded(np.square(x), windows.pads), np.add))
