"""Numbers that sum up a tensor, and how far two are apart: in float64, a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from registry_export.format import Array

_AT_ONCE = 1 << 20
"""Elements that are in memory as float64 at a time."""


@dataclass(frozen=True)
class Statistics:
    """Of the finite elements of an array; None where there are none."""

    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    nonfinite: int = 0


def statistics(array: Array) -> Statistics:
    """Compute the statistics of numbers in float64, a piece at a time.

    Pieces are put together as Chan, Golub and LeVeque do, so that a large mean does not swallow a small deviation.

    Args:
        array: Of any shape; booleans count as 0 and 1.
    """
    count, nonfinite, mean, squares = 0, 0, 0.0, 0.0
    low, high = math.inf, -math.inf
    for piece in _pieces(array):
        finite = piece[np.isfinite(piece)]
        nonfinite += piece.size - finite.size
        if not finite.size:
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # a sum of what float64 just holds
            own = float(finite.mean())
            spread = float(np.square(finite - own).sum())
            step, total = own - mean, count + finite.size
            mean += step * finite.size / total
            squares += spread + step * step * count * finite.size / total
        count = total
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if not count:
        return Statistics(nonfinite=nonfinite)
    return Statistics(low, high, _finite(mean), _finite(math.sqrt(squares / count)), nonfinite)


def difference(one: Array, other: Array) -> float | None:
    """Return max |one - other| in float64; None where one is not finite and the other is something else there.

    Args:
        one: Numbers, of the shape of the other.
        other: Likewise.
    """
    most = 0.0
    for mine, theirs in zip(_pieces(one), _pieces(other), strict=True):
        odd = ~(np.isfinite(mine) & np.isfinite(theirs))
        if not np.array_equal(mine[odd], theirs[odd], equal_nan=True):
            return None
        if not odd.all():
            most = max(most, float(np.abs(mine[~odd] - theirs[~odd]).max()))
    return _finite(most)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pieces(array: Array) -> Iterator[Array]:
    flat, dtype = array.reshape(-1), np.complex128 if array.dtype.kind == "c" else np.float64
    for start in range(0, flat.size, _AT_ONCE):
        yield np.asarray(flat[start : start + _AT_ONCE], dtype=dtype)
