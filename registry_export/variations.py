"""One sample, varied along the dynamic dimensions of a model: other batches, other lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from registry_export.dimensions import BATCH, Group, Sum
from registry_export.samples import Array

_LONGER = 3
_MULTIPLES = (2, 3)
_NOISE = 0.1
_LARGE_BATCH = 16
_SMALLER_BATCH = 6
_MANY_ELEMENTS = 1 << 16
"""Elements of a row from which fewer rows are run: a picture of 224 by 224 has more."""


@dataclass(frozen=True)
class Variation:
    """One set of inputs.

    Attributes:
        name: What they are.
        inputs: Arrays by input name.
        group: The dimension that they vary against the base; empty: none.
        kind: As in `inference.RungFiles`.
    """

    name: str
    inputs: Mapping[str, Array]
    group: str = ""
    kind: str = "example"


def variations(
    base: Mapping[str, Array], dimensions: Sequence[Group], seed: int = 0, together: Sequence[Sum] = ()
) -> Iterator[Variation]:
    """Yield the base itself, the batch at 1, another and a large size, other dimensions at 1, at 2 and longer.

    Of the longer sizes one is odd. A batch of 1 is the base's first row, then its second and its last: what
    has a batch of 1 for ever is judged by these alone, and one row may not take every branch.

    New rows are not copies: floats get noise of a tenth of the sample's deviation, integers are drawn
    between the sample's smallest and largest value, so that a batch ignored beyond its first row shows.

    Args:
        base: Arrays by input name.
        dimensions: What to vary.
        seed: Of the noise.
        together: Axes that follow other dimensions.
    """
    yield Variation("example", dict(base))
    generator = np.random.default_rng(seed)
    for group in dimensions:
        for size, kind in _sizes(base, group):
            resized = _settled(_resized(base, group, size, generator), dimensions, together, generator)
            yield Variation(f"{group.name} {size}", resized, group.name, kind)
        if group.name == BATCH:
            for row in sorted({1, group.size - 1}) if group.size > 1 else ():
                yield Variation(f"{group.name} 1, row {row + 1}", rows_of(base, group, [row]), group.name, "batch")


def multiples(
    base: Mapping[str, Array], group: Group, dimensions: Sequence[Group], seed: int = 0, together: Sequence[Sum] = ()
) -> Iterator[Variation]:
    """Yield multiples of a dimension's size: what halves its input and doubles it again runs at no others.

    Args:
        base: Arrays by input name.
        group: The dimension, one that refused the sizes of `variations` beyond its own.
        dimensions: All that are varied.
        seed: Of the noise.
        together: Axes that follow other dimensions.
    """
    generator = np.random.default_rng(seed)
    for factor in _MULTIPLES if group.name != BATCH else ():
        size = factor * group.size
        resized = _settled(_resized(base, group, size, generator), dimensions, together, generator)
        yield Variation(f"{group.name} {size}", resized, group.name, "length")


def _sizes(base: Mapping[str, Array], group: Group) -> list[tuple[int, str]]:
    """Choose the sizes to run a dimension at; a length of 1 is an edge that an export may refuse in words."""
    if group.name != BATCH:
        longer = group.size + _LONGER
        odd = longer if longer % 2 else longer + 1
        return [(size, "edge" if size == 1 else "length") for size in sorted({1, 2, longer, odd} - {group.size})]
    large = _SMALLER_BATCH if has_large_rows(base, group) else _LARGE_BATCH
    return [(size, "batch") for size in sorted({1, 3 if group.size != 3 else 5, large} - {group.size})]


def has_large_rows(base: Mapping[str, Array], batch: Group) -> bool:
    """Say whether a row of the batch is so large that few of them have to do."""
    return max(base[name].size // max(1, batch.size) for name, _ in batch.axes) >= _MANY_ELEMENTS


def _resized(base: Mapping[str, Array], group: Group, size: int, generator: np.random.Generator) -> dict[str, Array]:
    resized = dict(base)
    for name, axis in group.axes:
        resized[name] = _resize(resized[name], axis, size, generator)
    return resized


def _settled(
    inputs: dict[str, Array], dimensions: Sequence[Group], together: Sequence[Sum], generator: np.random.Generator
) -> dict[str, Array]:
    """Bring the axes that are sums to the sizes that their parts have now."""
    places = {group.name: group.axes[0] for group in dimensions}
    for one in together:
        size = sum(inputs[name].shape[axis] for name, axis in (places[part] for part in one.parts if part in places))
        if size != inputs[one.name].shape[one.axis]:
            inputs = inputs | {one.name: _resize(inputs[one.name], one.axis, size, generator)}
    return inputs


def rows_of(base: Mapping[str, Array], group: Group, rows: Sequence[int]) -> dict[str, Array]:
    """Take some rows of the batch; what has no batch stays."""
    return dict(base) | {name: np.take(base[name], rows, axis=axis) for name, axis in group.axes}


def _resize(array: Array, axis: int, size: int, generator: np.random.Generator) -> Array:
    if array.shape[axis] == 0:  # nothing to repeat; the empty example itself keeps the verdict from being one
        return _vary(np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype), array, generator)
    taken = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    if size <= array.shape[axis]:
        return np.ascontiguousarray(taken)
    fresh = _vary(taken, array, generator)
    kept = [slice(None)] * array.ndim
    kept[axis] = slice(0, array.shape[axis])
    fresh[tuple(kept)] = array
    return fresh


def _vary(taken: Array, array: Array, generator: np.random.Generator) -> Array:
    if array.dtype.kind == "f":
        known = array[np.isfinite(array)].astype(np.float64)  # a mask may hold infinities
        spread = float(known.std()) if known.size else 0.0
        noise = generator.standard_normal(taken.shape) * (spread or 1.0) * _NOISE
        return np.asarray(taken.astype(np.float64) + noise).astype(array.dtype)
    if array.dtype.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        return generator.integers(low, high, taken.shape, endpoint=True, dtype=array.dtype)
    return np.array(taken)
