"""Running sums over compared elements, from which every metric follows.

They add up over blocks, outputs and inputs, so that metrics over all of them are exact and no average of
averages, and an output of gigabytes needs no second copy in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from registry_export.entities import Metrics, WorstElement

Floats = NDArray[np.float64]

_PARTS = 16
"""Bins of the histogram for each doubling: the 99th percentile is known to 1/16 of its size."""
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -160, 160
_BINS = (_HIGHEST_EXPONENT - _LOWEST_EXPONENT + 1) * _PARTS
_PERCENTILE = 0.99
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
"""Of coarser bins, in bins of the histogram."""


@dataclass
class Sums:
    """Running sums of one or several outputs.

    Attributes:
        counts: Elements by the size of their difference; see `_bins`. Equal ones are in none.
        worst: The element that is furthest beyond what was allowed, and `excess` by how much.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    expected_sum: float = 0.0
    expected_squared: float = 0.0
    actual_squared: float = 0.0
    product: float = 0.0
    difference_sum: float = 0.0
    difference_squared: float = 0.0
    rows: int = 0
    agreeing_rows: int = 0
    rows_of_five: int = 0
    agreeing_in_five: int = 0
    elements: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    excess: float = -math.inf
    worst: WorstElement | None = None

    def add(self, other: Sums) -> None:
        """Take another output's sums in."""
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.counts.size:
            self.counts = self.counts + other.counts if self.counts.size else other.counts.copy()
        if other.worst is not None and (self.worst is None or other.excess > self.excess):
            self.excess, self.worst = other.excess, other.worst

    @property
    def root_mean_square(self) -> float:
        """Of the differences; 0 for no elements."""
        return math.sqrt(self.difference_squared / self.elements) if self.elements else 0.0

    def metrics(self) -> Metrics:
        """Compute the metrics. Those without a meaning are None: all of them for no elements."""
        if not self.elements:
            return Metrics(worst=self.worst)
        snr = None
        if self.difference_squared > 0 and self.expected_squared > 0:
            snr = decibels(self.expected_squared, self.difference_squared)
        return Metrics(
            max_abs_diff=self.max_abs,
            max_rel_diff=self.max_rel,
            mean_abs_diff=self.difference_sum / self.elements,
            p99_abs_diff=self._percentile(),
            cosine=self._cosine(),
            snr_db=snr,
            top1_agreement=self.agreeing_rows / self.rows if self.rows else None,
            top5_agreement=self.agreeing_in_five / self.rows_of_five if self.rows_of_five else None,
            worst=self.worst,
        )

    def bins(self, most: int) -> tuple[list[float], list[int]]:
        """Sum the differences up in bins of doublings or parts of them, the finest that are few enough.

        Args:
            most: Bins to return, of four doublings at the widest. What is smaller than that is in the lowest one.

        Returns:
            The ends of the bins, one more than there are, and the elements in each; nothing where all are equal.
        """
        (places,) = np.nonzero(self.counts)
        if not places.size:
            return [], []
        width = next((w for w in _WIDTHS if places[-1] // w - places[0] // w < most), _WIDTHS[-1])
        last = int(places[-1]) // width
        first = max(int(places[0]) // width, last - most + 1)
        of_bin = np.maximum(places // width, first) - first
        counts = np.bincount(of_bin, self.counts[places], minlength=last - first + 1)
        return [_end_of(bin_ * width - 1) for bin_ in range(first, last + 2)], [int(count) for count in counts]

    def _cosine(self) -> float:
        norms = math.sqrt(self.expected_squared) * math.sqrt(self.actual_squared)
        if norms == 0:
            return 1.0 if self.expected_squared == self.actual_squared else 0.0
        return max(-1.0, min(1.0, self.product / norms))

    def _percentile(self) -> float:
        """Return what 99 % of the differences do not exceed, rounded up to the end of its bin."""
        beyond = self.elements - math.ceil(_PERCENTILE * self.elements)
        if not self.counts.size or int(self.counts.sum()) <= beyond:
            return 0.0
        from_above = np.cumsum(self.counts[::-1])
        position = _BINS - 1 - int(np.argmax(from_above > beyond))
        return min(self.max_abs, _end_of(position))


_ADDED = (
    "expected_sum", "expected_squared", "actual_squared", "product", "difference_sum", "difference_squared", "rows",
    "agreeing_rows", "rows_of_five", "agreeing_in_five", "elements",
)  # fmt: skip


def sums_of(expected: Floats, actual: Floats, difference: Floats, floor: float) -> Sums:
    """Sum up one block of finite elements.

    Args:
        expected: The source's, flat.
        actual: The export's, as many.
        difference: Their absolute difference.
        floor: Smallest size that a relative difference is taken of.
    """
    if not expected.size:
        return Sums()
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return Sums(
            max_abs=float(difference.max()),
            max_rel=float((difference / np.maximum(np.abs(expected), floor)).max()),
            expected_sum=float(expected.sum()),
            expected_squared=float(expected @ expected),
            actual_squared=float(actual @ actual),
            product=float(expected @ actual),
            difference_sum=float(difference.sum()),
            difference_squared=float(difference @ difference),
            elements=expected.size,
            counts=_histogram(difference),
        )


def _histogram(difference: Floats) -> NDArray[np.int64]:
    positive = difference[(difference > 0) & np.isfinite(difference)]
    if not positive.size:
        return np.zeros(0, np.int64)
    mantissa, exponent = np.frexp(positive)  # positive = mantissa * 2**exponent, 0.5 <= mantissa < 1
    part = ((mantissa - 0.5) * 2 * _PARTS).astype(np.int64)
    place = (exponent.astype(np.int64) - _LOWEST_EXPONENT) * _PARTS + part
    return np.bincount(np.clip(place, 0, _BINS - 1), minlength=_BINS).astype(np.int64)


def _end_of(position: int) -> float:
    exponent, part = divmod(position, _PARTS)
    return math.ldexp(0.5 + (part + 1) / (2 * _PARTS), exponent + _LOWEST_EXPONENT)


def decibels(power: float, noise: float) -> float:
    """Return the ratio of two powers in decibels; minus infinity for no power, NaN where both are beyond floats."""
    return 10 * (math.log10(power) - math.log10(noise)) if power > 0 else -math.inf


def finite(metrics: Metrics) -> Metrics:
    """Replace infinite values by None: JSON and MLflow's metrics have no infinity."""
    changed = {name: None for name in NUMBERS if not math.isfinite(getattr(metrics, name) or 0.0)}
    return replace(metrics, **changed) if changed else metrics


NUMBERS = (
    "max_abs_diff", "max_rel_diff", "mean_abs_diff", "p99_abs_diff", "cosine", "snr_db", "top1_agreement",
    "top5_agreement",
)  # fmt: skip
"""The names of the metrics that are one number, as MLflow logs them."""
