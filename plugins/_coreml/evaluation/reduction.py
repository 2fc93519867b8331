"""Reductions over axes; all of them where none is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, flag, integer, integers, operator


def _sum(x: Tensor, **over: Any) -> Tensor:
    return np.asarray(np.sum(x, **over, dtype=np.float64 if x.dtype.kind == "f" else None))


def _mean(x: Tensor, **over: Any) -> Tensor:
    return np.asarray(np.mean(x, **over, dtype=np.float64))


def _log_sum_exp(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    largest = np.max(x, axis=axis, keepdims=True)
    # Nothing but minus infinity: the differences would be NaN.
    largest = np.where(np.isfinite(largest), largest, 0)
    result = np.log(_sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return result if keepdims else np.squeeze(result, axis)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_l1_norm": lambda x, **over: _sum(np.abs(x), **over),
    "reduce_l2_norm": lambda x, **over: np.sqrt(_sum(np.square(x), **over)),
    "reduce_log_sum": lambda x, **over: np.log(_sum(x, **over)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": np.max,
    "reduce_mean": _mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": _sum,
    "reduce_sum_square": lambda x, **over: _sum(np.square(x), **over),
}


def _declare(name: str, reduce: Callable[..., Any]) -> None:
    @operator(name)
    def reduction(x: Tensor, axes: Any = None, keep_dims: Any = False) -> Tensor:
        over = integers(axes) if axes is not None else tuple(range(x.ndim))
        return np.asarray(reduce(x, axis=over, keepdims=flag(keep_dims)))


for _name, _reduce in _REDUCTIONS.items():
    _declare(_name, _reduce)


@operator()
def reduce_argmax(x: Tensor, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Tensor:
    """Find the largest element along an axis, the first of equal ones."""
    return np.asarray(np.argmax(x, axis=integer(axis), keepdims=flag(keep_dims)))


@operator()
def reduce_argmin(x: Tensor, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Tensor:
    """Find the smallest element along an axis, the first of equal ones."""
    return np.asarray(np.argmin(x, axis=integer(axis), keepdims=flag(keep_dims)))
