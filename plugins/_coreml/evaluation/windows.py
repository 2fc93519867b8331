"""What convolutions and poolings share: how an input is padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, bounded, integers, unknown

Pads = list[tuple[int, int]]
"""Elements before and after, by spatial axis."""


def spread(given: Any, rank: int) -> tuple[int, ...]:
    """Read strides or dilations; ones where there are none."""
    return integers(given) if given is not None else (1,) * rank


def pairs(given: Any, rank: int) -> Pads:
    """Read a flat list of sizes before and after each axis; zeros where there is none."""
    flat = integers(given) if given is not None else (0,) * (2 * rank)
    return list(zip(flat[::2], flat[1::2], strict=True))


def halves(total: int, *, lower: bool = False) -> tuple[int, int]:
    """Share a total out; an odd element goes after, or before where `lower`."""
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def padding(pad_type: str, pad: Any, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Pads:
    """Return what is added around an input.

    Args:
        pad_type: `valid`, `custom`, `same` or `same_lower`.
        pad: The program's own, for `custom`.
        sizes: Spatial sizes of the input.
        kernel: Sizes of the window, dilated.
        strides: Its strides.
    """
    rank = len(sizes)
    if pad_type == "valid":
        return [(0, 0)] * rank
    if pad_type == "custom":
        return pairs(pad, rank)
    if pad_type not in ("same", "same_lower"):
        raise unknown(f"with padding {pad_type}")
    return [
        halves(max((-(-size // stride) - 1) * stride + width - size, 0), lower=pad_type == "same_lower")
        for size, width, stride in zip(sizes, kernel, strides, strict=True)
    ]


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Add elements around the last axes of x; a negative number takes some away."""
    lead = x.ndim - len(pads)
    bounded([*x.shape[:lead], *(n + sum(pad) for n, pad in zip(x.shape[lead:], pads, strict=True))])
    if any(part < 0 for pad in pads for part in pad):
        cut = [
            slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape[lead:], pads, strict=True)
        ]
        x = x[(..., *cut)]
        pads = [(max(before, 0), max(after, 0)) for before, after in pads]
    if not any(part for pad in pads for part in pad):
        return x
    return np.pad(x, [(0, 0)] * lead + pads, constant_values=value)


def windows_of(x: Tensor, sizes: Sequence[int], axes: tuple[int, ...]) -> Tensor:
    """Return a view of all windows of some sizes along some axes; their elements lie on new axes at the end."""
    view: Any = np.lib.stride_tricks.sliding_window_view
    return np.asarray(view(x, tuple(sizes), axis=axes))
