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

from registry_export.differences import Floats, Sums, decibels, sums_of
from registry_export.entities import Tolerance, WorstElement
from registry_export.tolerances import Allowance, Size, allowance

Array = NDArray[np.generic]

NUMBERS = "fciub"
"""NumPy's kinds of arrays that can be compared: floats, complex numbers, integers and booleans."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """One output compared: its sums, what is wrong with it (empty: nothing), and what was allowed of an element.

    `allowed` is the least and the most of it; empty where no element is judged alone.
    """

    sums: Sums
    problem: str = ""
    allowed: tuple[float, ...] = ()


def compare(expected: Array, actual: Array, tolerance: Tolerance, noise: float = 0.0, name: str = "") -> Comparison:
    """Compare one output.

    Args:
        expected: The source's output.
        actual: The exported model's output.
        tolerance: Judges floats element by element, by their signal-to-noise ratio, or by both, and complex
            numbers by their real and imaginary parts; integers and booleans must be equal, or agree in the
            share that it names.
        noise: The source's noise floor on these inputs: for floats a difference, for others a share.
        name: The output's, for the worst element.

    Returns:
        The sums over elements that are finite in both, and the first of: another dtype, another shape,
        NaN or infinity where the source has none (or the reverse), breach of the tolerance.
    """
    if expected.dtype != actual.dtype:
        return Comparison(Sums(), f"dtype {actual.dtype.name} instead of {expected.dtype.name}")
    if expected.shape != actual.shape:
        return Comparison(Sums(), f"shape {_shape(actual)} instead of {_shape(expected)}")
    if expected.dtype.kind not in NUMBERS:
        return Comparison(Sums(), f"dtype {expected.dtype.name} cannot be compared")
    exact = not is_continuous(expected)
    size = size_of(expected)
    allowed = allowance(tolerance, size, noise, exact=exact)
    judged, beyond = _Judged(real(expected).shape, allowed, name), 0
    for start, e, a in _blocks(real(expected), real(actual)):
        beyond += judged.take(start, e, a)
    sums, problem = judged.sums, judged.odd
    _count_rows(expected, actual, sums)
    problem = problem or (_discrete(sums, beyond, allowed) if exact else _continuous(sums, beyond, tolerance, allowed))
    if not problem and allowed.share >= 1 and expected.dtype.kind in "iu" and not np.array_equal(expected, actual):
        problem = "integers beyond 2**53 differ"  # float64 holds smaller ones exactly
    if not problem and not exact:
        problem = _other_classes(expected, actual, tolerance, sums)
    bounds = () if exact or not tolerance.by_element else allowed.of(np.array([0.0, size.largest])).tolist()
    return Comparison(sums, problem, tuple(bounds))


def compare_all(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    tolerance: Tolerance,
    noise: Mapping[str, float] | None = None,
) -> tuple[dict[str, Comparison], str]:
    """Compare the outputs of one run by name.

    Args:
        expected: The source's outputs.
        actual: The exported model's.
        tolerance: As in `compare`.
        noise: The source's noise floor by output.

    Returns:
        A comparison for each output that both have, and the first problem (empty: none).
    """
    floors = noise or {}
    problems = [f"output {name} is missing" for name in expected if name not in actual]
    problems += [f"output {name} is not the source's" for name in actual if name not in expected]
    compared = {n: compare(expected[n], actual[n], tolerance, floors.get(n, 0.0), n) for n in expected if n in actual}
    problems += [f"output {name}: {c.problem}" for name, c in compared.items() if c.problem]
    return compared, problems[0] if problems else ""


def is_continuous(array: Array) -> bool:
    """Say whether an array holds measurements, which may differ a little, and not choices."""
    return array.dtype.kind in "fc"


def real(array: Array) -> Array:
    """Return complex numbers as pairs of floats along a last axis, real and imaginary part; all else as it is."""
    return np.stack((array.real, array.imag), axis=-1) if array.dtype.kind == "c" else array


def size_of(array: Array) -> Size:
    """Measure the root mean square and the largest of an output's finite elements; zeros where there are none."""
    largest, squared, count = 0.0, 0.0, 0
    for known in _finite_blocks(array):
        largest = max(largest, float(np.abs(known).max(initial=0.0)))
    for known in _finite_blocks(array) if largest else ():
        known /= largest  # squares far from 1 are beyond floats, and an infinite size would allow anything
        squared += float(known @ known)
        count += known.size
    return Size(largest * math.sqrt(squared / count) if count else 0.0, largest)


def is_finite(array: Array) -> bool:
    """Say whether nothing in an array is NaN or infinite."""
    return not is_continuous(array) or bool(np.isfinite(array).all())


def _finite_blocks(array: Array) -> Iterator[Floats]:
    known = real(array)
    for _, block, _ in _blocks(known, known):
        yield block[np.isfinite(block)]


def _blocks(expected: Array, actual: Array) -> Iterator[tuple[int, Floats, Floats]]:
    flat_expected, flat_actual = expected.reshape(-1), actual.reshape(-1)
    for start in range(0, flat_expected.size, _BLOCK):
        stop = start + _BLOCK
        yield start, flat_expected[start:stop].astype(np.float64), flat_actual[start:stop].astype(np.float64)


@dataclass
class _Judged:
    """The blocks of one output, taken one after another."""

    shape: tuple[int, ...]
    allowed: Allowance
    name: str
    odd: str = ""

    def __post_init__(self) -> None:
        self.sums = Sums()

    def take(self, start: int, expected: Floats, actual: Floats) -> int:
        """Take a block in; returns how many of its elements are beyond what is allowed."""
        finite = np.isfinite(expected) & np.isfinite(actual)
        odd = ~finite & ~((expected == actual) | (np.isnan(expected) & np.isnan(actual)))
        if odd.any():
            self._note_odd(start + int(np.argmax(odd)), expected[np.argmax(odd)], actual[np.argmax(odd)])
        places = None if finite.all() else np.flatnonzero(finite)
        if places is not None:
            expected, actual = expected[places], actual[places]
        if not expected.size:
            return 0
        difference = np.abs(actual - expected)
        excess = difference - self.allowed.of(np.abs(expected))
        block = sums_of(expected, actual, difference, self.allowed.floor)
        worst = int(np.argmax(excess))
        block.excess = float(excess[worst])
        place = start + (worst if places is None else int(places[worst]))
        block.worst = self._element(place, expected[worst], actual[worst])
        self.sums.add(block)
        return int(np.sum(~(excess <= 0)))  # an allowance that is no number allows nothing

    def _note_odd(self, place: int, expected: float, actual: float) -> None:
        if not self.odd:
            self.odd = f"{actual} where the source has {expected}"
            self.sums.excess, self.sums.worst = math.inf, self._element(place, expected, actual)

    def _element(self, place: int, expected: float, actual: float) -> WorstElement:
        index = tuple(int(i) for i in np.unravel_index(place, self.shape))
        return WorstElement(self.name, index, _number(expected), _number(actual))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _discrete(sums: Sums, beyond: int, allowed: Allowance) -> str:
    """Judge what is no measurement but a choice: class numbers, masks, token ids."""
    if not beyond or 1 - beyond / sums.elements >= allowed.share:
        return ""
    limit = "must be equal" if allowed.share >= 1 else f"{allowed.share:.1%} must be equal"
    return f"{_elements(beyond, sums.elements)} breach the tolerance ({limit}), {_at_worst(sums)}"


def _continuous(sums: Sums, beyond: int, tolerance: Tolerance, allowed: Allowance) -> str:
    if tolerance.by_element and beyond:
        return f"{_elements(beyond, sums.elements)} breach the tolerance ({allowed.text}), {_at_worst(sums)}"
    return _too_noisy(sums, tolerance.snr_db, allowed) if tolerance.snr_db is not None else ""


def _elements(count: int, of: int) -> str:
    return f"{count} of {of} elements"


def _at_worst(sums: Sums) -> str:
    worst = sums.worst
    assert worst is not None
    place = f" at {list(worst.index)}" if worst.index else ""
    return f"the worst{place} is {worst.actual:.6g} where the source has {worst.expected:.6g}"


_LEAST_OF_VARIATION_DB = 3.0
"""Least ratio of an output's variation around its mean to the difference: the mean in its place gives 0 dB."""
_ENOUGH_TO_VARY = 8


def _too_noisy(sums: Sums, least: float, allowed: Allowance) -> str:
    """Judge an output by its signal-to-noise ratio; nothing may stand where the source has only zeros.

    Much power says little where all of it is in an offset: a model that ignores its input passes then. So
    what varies must stand out of the difference too. What is within ten times the source's own noise passes.
    """
    noise = sums.difference_squared
    if noise == 0 or sums.max_abs <= allowed.raised:
        return ""
    ratio = decibels(sums.expected_squared, noise)
    if not ratio >= least:  # a ratio that is no number shows nothing
        return f"its signal-to-noise ratio of {_missed(ratio, least)} dB is below {least:g} dB"
    variation = sums.expected_squared - sums.expected_sum * sums.expected_sum / max(sums.elements, 1)
    # What rounding leaves of a constant output is no variation.
    if sums.elements < _ENOUGH_TO_VARY or variation <= 1e-9 * sums.expected_squared:
        return ""
    ratio = decibels(variation, noise)
    if ratio < _LEAST_OF_VARIATION_DB:
        missed = _missed(ratio, _LEAST_OF_VARIATION_DB)
        return f"what varies in it is {missed} dB above the difference, less than {_LEAST_OF_VARIATION_DB:g} dB"
    return ""


def _missed(ratio: float, least: float) -> str:
    """Write a ratio with so many digits that it reads as less than what it is below."""
    places = (1, 2, 3, 6)
    return next((text for n in places if float(text := f"{ratio:.{n}f}") < least), f"{ratio}")


_FIVE = 5
_ROWS_THAT_TELL = 16
"""Fewer rows say little of a share."""


def _count_rows(expected: Array, actual: Array, sums: Sums) -> None:
    """Count the rows of class scores whose best class is the same, and is among the five best."""
    if not _looks_like_class_scores(expected):
        return
    sums.rows = expected.shape[0]
    several = expected.shape[1] > _FIVE
    sums.rows_of_five = sums.rows if several else 0
    for start in range(0, sums.rows, step := max(1, _BLOCK // expected.shape[1])):
        best, rows = np.argmax(expected[start : start + step], axis=-1), actual[start : start + step]
        sums.agreeing_rows += int(np.sum(best == np.argmax(rows, axis=-1)))
        if several:
            five = np.argpartition(rows, -_FIVE, axis=-1)[:, -_FIVE:]
            sums.agreeing_in_five += int(np.sum(five == best[:, None]))


def _other_classes(expected: Array, actual: Array, tolerance: Tolerance, sums: Sums) -> str:
    """Judge class scores by the classes that they choose, where the source's own choice is no toss-up.

    A row counts if its two best scores are further apart than the difference is large (root mean square).
    """
    if tolerance.agreement is None or not sums.rows:
        return ""
    decided = agreeing = 0
    for start in range(0, sums.rows, step := max(1, _BLOCK // expected.shape[1])):
        rows, others = np.asarray(expected[start : start + step], np.float64), actual[start : start + step]
        two = np.partition(rows, -2, axis=-1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > sums.root_mean_square
        decided += int(clear.sum())
        agreeing += int(np.sum(clear & (np.argmax(rows, axis=-1) == np.argmax(others, axis=-1))))
    if decided < _ROWS_THAT_TELL or agreeing >= tolerance.agreement * decided:
        return ""
    return (
        f"the best class is the same in {agreeing / decided:.1%} of the {decided} rows that are no toss-up, "
        f"less than {tolerance.agreement:.0%}"
    )


def _looks_like_class_scores(array: Array) -> bool:
    """Floats of shape (rows, classes) with two or more classes are taken for class scores."""
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] >= 2 and array.shape[0] > 0


def _shape(array: Array) -> str:
    return "x".join(str(size) for size in array.shape) or "scalar"


def named(worst: WorstElement | None, rung: str) -> WorstElement | None:
    """Say on which inputs an element is the worst."""
    return replace(worst, rung=rung) if worst is not None else None
