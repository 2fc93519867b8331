"""Operators that order elements, or find some."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, flag, integer, operator


def _order(x: Tensor, axis: int, ascending: bool) -> Tensor:
    """Return the positions of the elements in order; equal ones stay as they were."""
    if ascending:
        return np.argsort(x, axis, kind="stable")
    last = x.shape[axis] - 1
    return np.flip(last - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)


@operator()
def argsort(x: Tensor, axis: Any = -1, ascending: Any = False) -> Tensor:
    """Return the positions of the elements in order."""
    return _order(x, integer(axis), flag(ascending))


@operator()
def topk(
    x: Tensor,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, ...]:
    """Return the first k elements in order and their positions; all of them for -1."""
    axis, count = integer(axis), integer(k)
    if count > x.shape[axis]:
        raise ValueError(f"it wants {count} of {x.shape[axis]} elements")
    order = _order(x, axis, flag(ascending))
    order = order if count == -1 else np.take(order, range(count), axis)
    values = np.take_along_axis(x, order, axis)
    return (values, order) if flag(return_indices) else values


@operator(exact=True)
def non_zero(x: Tensor) -> Tensor:
    """Return the positions of the elements that are not zero, one a row."""
    return np.argwhere(x)
