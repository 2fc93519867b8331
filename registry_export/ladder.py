"""The rungs beyond a sample's own values: edges of its range, and values drawn as it is distributed.

Random inputs alike in size hide what happens at zero, where a product overflows, at the last word of a
vocabulary or behind a mask. These inputs look there. A source that refuses some of them has no such rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from registry_export.dimensions import Group
from registry_export.inference import DRAWN, EDGE, answered
from registry_export.samples import Array
from registry_export.variations import Variation, has_large_rows, rows_of

Infer = Callable[[Mapping[str, Array]], dict[str, Array]]
Pays = Callable[[str, Mapping[str, Array], int], bool]
"""Whether a rung may cost so many runs on such inputs."""

_FEW = 2
_LARGER, _SMALLER = 100.0, 1e-3
_DRAWN_ROWS = 4
_LARGEST_VOCABULARY = 1 << 18
"""An input that takes this number is none that looks something up."""
_SEARCH_RUNS = 19
"""A bisection of that range, and the question whether the source takes any number at all."""
_AROUND_NARROWER_TYPES = (1 << 15, 1 << 7, 1 << 8, (1 << 15) - 1, (1 << 7) - 1, (1 << 8) - 1)
"""What an integer of 8 or 16 bits still holds, and what it does not; the largest first, for inputs of few elements."""
_SPREAD_OF_A_CONSTANT = 0.1


def edges(
    base: Mapping[str, Array], batch: Group | None, infer: Infer, pays: Pays | None = None
) -> Iterator[Variation]:
    """Yield the sample with its values replaced by extreme ones, all inputs of a kind at once.

    Floats become zeros, a hundred times larger, a thousand times smaller (where an epsilon shows), negative;
    numbers that look something up become the lowest and the highest that the source takes, and where it
    takes any, those around the ends of narrower types; of a mask that is all ones or all zeros the later half
    is turned.

    Args:
        base: Arrays by input name.
        batch: The batch, where it may vary: two rows are enough then, and of large ones one.
        infer: Runs the source, to learn which numbers it takes.
        pays: Asked before it is run for that; None: it may be.
    """
    few = dict(base)
    if batch is not None:
        few = rows_of(base, batch, range(min(1 if has_large_rows(base, batch) else _FEW, batch.size)))
    floats = {name: array for name, array in few.items() if is_measured(array)}
    for name, change in _CHANGES.items() if floats else ():
        yield _edge(name, few, {n: change(array) for n, array in floats.items()})
    numbers = {name: array for name, array in few.items() if array.dtype.kind in "iu" and not is_mask(array)}
    if numbers:
        lowest = {name: min(0, int(array.min())) for name, array in numbers.items()}
        yield _edge("lowest numbers", few, {n: _beside(few[n], lowest[n], int(few[n].max())) for n in numbers})
        searched = pays is None or pays("highest numbers", few, _SEARCH_RUNS * len(numbers))
        highest = {name: highest_number(few, name, infer) for name in numbers} if searched else {}
        known = {n: _beside(few[n], value, lowest[n]) for n, value in highest.items() if value is not None}
        if known:
            yield _edge("highest numbers", few, known)
        large = {n: _around_narrower_types(few[n]) for n, value in highest.items() if value is None}
        if large:
            yield _edge("large numbers", few, large)
    turned = {name: _half_turned(array) for name, array in few.items() if is_mask(array) and _is_constant(array)}
    if turned:
        yield _edge("half masked", few, turned)


_CHANGES: Mapping[str, Callable[[Array], Array]] = {
    "zeros": np.zeros_like,
    "large": lambda array: _times(array, _LARGER),
    "tiny": lambda array: _times(array, _SMALLER),
    "negative": lambda array: -np.abs(array),
}


_NEIGHBOURS = 4


def _beside(array: Array, number: int, towards: int) -> Array:
    """Fill with a number and the next ones, in turn: where all are the same, all scores tie, and any order is right."""
    steps = np.arange(array.size).reshape(array.shape) % min(_NEIGHBOURS, abs(towards - number) + 1)
    return np.asarray(number + steps if towards >= number else number - steps, array.dtype)


def _around_narrower_types(array: Array) -> Array:
    fitting = [number for number in _AROUND_NARROWER_TYPES if number <= _largest(array)]
    return np.resize(np.asarray(fitting, array.dtype), array.shape)


def _times(array: Array, factor: float) -> Array:
    with np.errstate(over="ignore"):
        return (array.astype(np.float64) * factor).astype(array.dtype)


def _edge(name: str, base: Mapping[str, Array], changed: Mapping[str, Array]) -> Variation:
    return Variation(name, {**base, **changed}, kind=EDGE)


def drawn(base: Mapping[str, Array], batch: Group | None, seed: int = 0) -> Variation:
    """Draw inputs that are distributed as the sample is, and stay within its range.

    Floats are normal with the sample's mean and deviation, integers uniform between its smallest and its
    largest; masks stay, since what they let through is no number's business.
    """
    generator = np.random.default_rng(seed)
    taken = dict(base)
    if batch is not None and batch.size:
        most = _FEW if has_large_rows(base, batch) else _DRAWN_ROWS
        taken = rows_of(base, batch, [row % batch.size for row in range(min(max(batch.size, _FEW), most))])
    return Variation("drawn", {name: _drawn(array, generator) for name, array in taken.items()}, kind=DRAWN)


def _drawn(array: Array, generator: np.random.Generator) -> Array:
    if not array.size or (array.dtype.kind != "f" and is_mask(array) and _is_constant(array)):
        return array
    if array.dtype.kind == "f" and is_measured(array):
        values = array.astype(np.float64)
        deviation = float(values.std())
        noise = generator.standard_normal(array.shape)
        if deviation == 0:
            return (values + _SPREAD_OF_A_CONSTANT * noise).astype(array.dtype)
        clipped = np.clip(values.mean() + deviation * noise, values.min(), values.max())
        return np.asarray(clipped, array.dtype)
    if array.dtype.kind in "iu":
        numbers = generator.integers(int(array.min()), int(array.max()), array.shape, endpoint=True)
        return np.asarray(numbers, array.dtype)
    if array.dtype.kind == "b":
        shuffled = generator.permutation(array.reshape(-1))
        return np.reshape(shuffled, array.shape)
    return array


def _is_constant(array: Array) -> bool:
    return bool((array == array.reshape(-1)[0]).all())


def is_mask(array: Array) -> bool:
    """Say whether all that an input holds are zeros and ones, as a mask or a flag does."""
    return array.size > 0 and (array.dtype.kind == "b" or bool(np.isin(array, (0, 1)).all()))


def is_measured(array: Array) -> bool:
    """Say whether an input holds measurements: floats that are neither a mask nor one's infinities."""
    if array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
        return False
    return not is_mask(array) or not array.any()  # zeros alone are a state to begin with


def _half_turned(array: Array) -> Array:
    turned = np.array(array)
    width = turned.shape[-1] if turned.ndim else 0
    later = turned[..., (width + 1) // 2 :] if width else turned
    later[...] = np.equal(later, 0)
    return turned


def highest_number(base: Mapping[str, Array], name: str, infer: Infer) -> int | None:
    """Find the largest number that a source takes everywhere in an input: the last word of its vocabulary.

    Returns:
        None where it takes any number, because then it looks nothing up.
    """
    lowest, beyond = int(base[name].max()), min(_LARGEST_VOCABULARY, _largest(base[name]))
    if lowest >= beyond or _takes(base, name, beyond, infer):
        return None
    while beyond - lowest > 1:
        middle = (lowest + beyond) // 2
        if _takes(base, name, middle, infer):
            lowest = middle
        else:
            beyond = middle
    return lowest


def _largest(array: Array) -> int:
    bits = 8 * array.dtype.itemsize
    return (1 << bits) - 1 if array.dtype.kind == "u" else (1 << (bits - 1)) - 1


def _takes(base: Mapping[str, Array], name: str, number: int, infer: Infer) -> bool:
    return answered(infer, {**base, name: np.full_like(base[name], number)}) is not None
