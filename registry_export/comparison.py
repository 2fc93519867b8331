"""Expected outputs against actual ones: what differs, by how much, and whether that is too much.

All arithmetic is in float64 and goes through the arrays in blocks, so that outputs of any size need no
second copy in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from registry_export.entities import Metrics, Tolerance

Array = NDArray[np.generic]

_BLOCK = 1 << 20


@dataclass
class Sums:
    """Running sums of one or several outputs, from which every metric follows.

    They add up, so the metrics over all outputs and inputs are exact and not averages of averages.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    expected_sum: float = 0.0
    expected_squared: float = 0.0
    actual_squared: float = 0.0
    product: float = 0.0
    difference_squared: float = 0.0
    rows: int = 0
    agreeing_rows: int = 0
    elements: int = 0

    def add(self, other: Sums) -> None:
        """Take another output's sums in."""
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.expected_sum += other.expected_sum
        self.expected_squared += other.expected_squared
        self.actual_squared += other.actual_squared
        self.product += other.product
        self.difference_squared += other.difference_squared
        self.rows += other.rows
        self.agreeing_rows += other.agreeing_rows
        self.elements += other.elements

    def metrics(self) -> Metrics:
        """Compute the metrics. Those without a meaning are None: all of them for no elements."""
        if not self.elements:
            return Metrics()
        snr = None
        if self.difference_squared > 0 and self.expected_squared > 0:
            snr = 10 * math.log10(self.expected_squared / self.difference_squared)
        return Metrics(
            max_abs_diff=self.max_abs,
            max_rel_diff=self.max_rel,
            cosine=self._cosine(),
            snr_db=snr,
            top1_agreement=self.agreeing_rows / self.rows if self.rows else None,
        )

    def _cosine(self) -> float:
        norms = math.sqrt(self.expected_squared) * math.sqrt(self.actual_squared)
        if norms == 0:
            return 1.0 if self.expected_squared == self.actual_squared else 0.0
        return max(-1.0, min(1.0, self.product / norms))


@dataclass(frozen=True)
class Comparison:
    """One output compared: its sums, and what is wrong with it (empty: nothing)."""

    sums: Sums
    problem: str = ""


def compare(expected: Array, actual: Array, tolerance: Tolerance) -> Comparison:
    """Compare one output.

    Args:
        expected: The source's output.
        actual: The exported model's output.
        tolerance: Judges floats element by element, or by their signal-to-noise ratio where it names one;
            integers and booleans must be equal.

    Returns:
        The sums over elements that are finite in both, and the first of: another dtype, another shape,
        NaN or infinity where the source has none (or the reverse), breach of the tolerance.
    """
    if expected.dtype != actual.dtype:
        return Comparison(Sums(), f"dtype {actual.dtype.name} instead of {expected.dtype.name}")
    if expected.shape != actual.shape:
        return Comparison(Sums(), f"shape {_shape(actual)} instead of {_shape(expected)}")
    if expected.dtype.kind not in "fiub":
        return Comparison(Sums(), f"dtype {expected.dtype.name} cannot be compared")
    sums, problem = Sums(), ""
    for e, a in _blocks(expected, actual):
        block, block_problem = _compare_block(e, a, tolerance, exact=expected.dtype.kind != "f")
        sums.add(block)
        problem = problem or block_problem
    if not problem and expected.dtype.kind == "f" and tolerance.snr_db is not None:
        problem = _too_noisy(sums, tolerance.snr_db)
    if not problem and expected.dtype.kind in "iu" and not np.array_equal(expected, actual):
        problem = "integers beyond 2**53 differ"  # float64 holds smaller ones exactly
    if _looks_like_class_scores(expected):
        sums.rows = expected.shape[0]
        sums.agreeing_rows = int(np.sum(np.argmax(expected, axis=-1) == np.argmax(actual, axis=-1)))
    return Comparison(sums, problem)


def compare_all(
    expected: Mapping[str, Array], actual: Mapping[str, Array], tolerance: Tolerance
) -> tuple[dict[str, Comparison], str]:
    """Compare the outputs of one run by name.

    Returns:
        A comparison for each output that both have, and the first problem (empty: none).
    """
    problems = [f"output {name} is missing" for name in expected if name not in actual]
    problems += [f"output {name} is not the source's" for name in actual if name not in expected]
    compared = {n: compare(expected[n], actual[n], tolerance) for n in expected if n in actual}
    problems += [f"output {name}: {c.problem}" for name, c in compared.items() if c.problem]
    return compared, problems[0] if problems else ""


def _blocks(expected: Array, actual: Array) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    flat_expected, flat_actual = expected.reshape(-1), actual.reshape(-1)
    for start in range(0, flat_expected.size, _BLOCK):
        stop = start + _BLOCK
        yield flat_expected[start:stop].astype(np.float64), flat_actual[start:stop].astype(np.float64)


def _compare_block(
    expected: NDArray[np.float64], actual: NDArray[np.float64], tolerance: Tolerance, *, exact: bool
) -> tuple[Sums, str]:
    finite = np.isfinite(expected) & np.isfinite(actual)
    odd = ~finite & ~((expected == actual) | (np.isnan(expected) & np.isnan(actual)))
    problem = ""
    if odd.any():
        place = int(np.argmax(odd))
        problem = f"{actual[place]} where the source has {expected[place]}"
    if not finite.all():
        expected, actual = expected[finite], actual[finite]
    difference = np.abs(actual - expected)
    size = np.abs(expected)
    allowed = np.zeros(()) if exact else tolerance.atol + tolerance.rtol * size
    by_element = exact or tolerance.snr_db is None
    if by_element and not problem and not (difference <= allowed).all():  # a tolerance that is no number allows nothing
        problem = _breach(expected, actual, difference, allowed, tolerance, exact=exact)
    return _sums(expected, actual, difference, size, tolerance), problem


_LEAST_OF_VARIATION_DB = 3.0
"""Least ratio of an output's variation around its mean to the difference: the mean in its place gives 0 dB."""
_ENOUGH_TO_VARY = 8


def _too_noisy(sums: Sums, least: float) -> str:
    """Judge an output by its signal-to-noise ratio; nothing may stand where the source has only zeros.

    Much power says little where all of it is in an offset: a model that ignores its input passes then. So
    what varies must stand out of the difference too.
    """
    noise = sums.difference_squared
    if noise == 0:
        return ""
    ratio = _decibels(sums.expected_squared, noise)
    if ratio < least:
        return f"its signal-to-noise ratio of {ratio:.1f} dB is below {least:g} dB"
    variation = sums.expected_squared - sums.expected_sum**2 / max(sums.elements, 1)
    # What rounding leaves of a constant output is no variation.
    if sums.elements < _ENOUGH_TO_VARY or variation <= 1e-9 * sums.expected_squared:
        return ""
    ratio = _decibels(variation, noise)
    if ratio < _LEAST_OF_VARIATION_DB:
        return f"what varies in it is {ratio:.1f} dB above the difference, less than {_LEAST_OF_VARIATION_DB:g} dB"
    return ""


def _decibels(power: float, noise: float) -> float:
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def _breach(
    expected: NDArray[np.float64],
    actual: NDArray[np.float64],
    difference: NDArray[np.float64],
    allowed: NDArray[np.float64],
    tolerance: Tolerance,
    *,
    exact: bool,
) -> str:
    count = int(np.sum(difference > allowed))
    place = int(np.argmax(difference - allowed))
    limit = "must be equal" if exact else f"atol {tolerance.atol:.1e}, rtol {tolerance.rtol:.1e}"
    return (
        f"{count} elements breach the tolerance ({limit}), the worst is {actual[place]:.6g} "
        f"where the source has {expected[place]:.6g}"
    )


def _sums(
    expected: NDArray[np.float64],
    actual: NDArray[np.float64],
    difference: NDArray[np.float64],
    size: NDArray[np.float64],
    tolerance: Tolerance,
) -> Sums:
    if not expected.size:
        return Sums()
    floor = tolerance.atol / tolerance.rtol if tolerance.rtol > 0 else np.finfo(np.float64).tiny
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return Sums(
            max_abs=float(difference.max()),
            max_rel=float((difference / np.maximum(size, max(floor, np.finfo(np.float64).tiny))).max()),
            expected_sum=float(expected.sum()),
            expected_squared=float(expected @ expected),
            actual_squared=float(actual @ actual),
            product=float(expected @ actual),
            difference_squared=float(difference @ difference),
            elements=expected.size,
        )


def _looks_like_class_scores(array: Array) -> bool:
    """Floats of shape (rows, classes) with two or more classes are taken for class scores."""
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] >= 2 and array.shape[0] > 0


def _shape(array: Array) -> str:
    return "x".join(str(size) for size in array.shape) or "scalar"


def finite(metrics: Metrics) -> Metrics:
    """Replace infinite values by None: JSON and MLflow's metrics have no infinity."""
    changed = {
        name: None
        for name in ("max_abs_diff", "max_rel_diff", "cosine", "snr_db", "top1_agreement")
        if (value := getattr(metrics, name)) is not None and not math.isfinite(value)
    }
    return replace(metrics, **changed) if changed else metrics
