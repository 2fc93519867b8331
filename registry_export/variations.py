"""One sample, varied along the dynamic dimensions of a model: other batches, other lengths.

What varies is found from the names of dimensions; what really is dynamic is what a model still runs at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.samples import Array

BATCH = "batch"
_PLUS = " + "
"""Between the names of a dimension that is the sum of others (a mask over a cache and what follows it)."""

_LONGER = 3
_MULTIPLES = (2, 3)
_NOISE = 0.1
_LARGE_BATCH = 16
_SMALLER_BATCH = 6
_MANY_ELEMENTS = 1 << 16
"""Elements of a row from which fewer rows are run: a picture of 224 by 224 has more."""


@dataclass(frozen=True)
class Group:
    """Axes that vary together: one dynamic dimension of the model.

    Attributes:
        name: The dimension's name.
        axes: (input name, axis) of each place where it occurs.
        size: Its size in the base sample.
    """

    name: str
    axes: tuple[tuple[str, int], ...]
    size: int


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


def groups(base: Mapping[str, Array], interfaces: Sequence[Interface]) -> tuple[Group, ...]:
    """Find the dimensions worth varying: those that stand as a name in any of the interfaces.

    Axis 0 of every input is one dimension, the batch, where all inputs agree on its size; not where its name
    stands on another axis too, or another axis is called `batch` (a sequence that comes first). Other axes are one
    dimension when they share a name, or have the same size and were named after their input
    alone (a signature's -1 says nothing of which dimensions are equal). Two such axes of one input, as the
    height and the width of a square picture, are two dimensions; `tied` makes one of them.
    """
    found: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
    places = list(_named_axes(base, interfaces))
    later = {
        (dimension, base[name].shape[axis])
        for name, axis, dimension in places
        if axis > 0 and not _anonymous(name, axis, dimension)
    }
    elsewhere = any(dimension == BATCH for dimension, _ in later)
    for name, axis, dimension in places:
        size = base[name].shape[axis]
        anonymous = _anonymous(name, axis, dimension)
        first = axis == 0 and not elsewhere and (dimension, size) not in later
        label = BATCH if first else "" if anonymous else dimension
        before = sum(  # how many axes of this input stand in dimensions of this label and size already
            place[0] == name for key, places in found.items() if key[:2] == (label, size) for place in places
        )
        found.setdefault((label, size, before if anonymous else 0), []).append((name, axis))
    result: list[Group] = []
    for (label, size, _), axes in found.items():
        taken = label in {group.name for group in result}
        result.append(Group(f"{axes[0][0]}_{axes[0][1]}" if taken or not label else label, tuple(axes), size))
    return tuple(sorted(result, key=lambda group: group.name != BATCH))


def _anonymous(name: str, axis: int, dimension: str) -> bool:
    return axis > 0 and dimension in (f"{name}_{axis}", f"input_{axis}")


def tied(dimensions: Sequence[Group], refused: Collection[str]) -> tuple[Group, ...]:
    """Make one dimension of those of equal size that a model refuses to vary alone (a square mask has two).

    Args:
        dimensions: All dimensions.
        refused: Names of those that were refused.
    """
    result: list[Group] = []
    for group in dimensions:
        twin = next((g for g in result if g.size == group.size and {g.name, group.name} <= set(refused)), None)
        if twin is None:
            result.append(group)
        else:
            result[result.index(twin)] = replace(twin, axes=twin.axes + group.axes)
    return tuple(result)


def _named_axes(base: Mapping[str, Array], interfaces: Sequence[Interface]) -> Iterator[tuple[str, int, str]]:
    seen = set()
    for interface in interfaces:
        for spec in interface.inputs:
            rank = base[spec.name].ndim if spec.name in base else 0
            for axis, dimension in enumerate(spec.shape or ()):
                if isinstance(dimension, str) and _PLUS in dimension:
                    seen.add((spec.name, axis))
                elif isinstance(dimension, str) and axis < rank and (spec.name, axis) not in seen:
                    seen.add((spec.name, axis))
                    yield spec.name, axis, dimension


@dataclass(frozen=True)
class Sum:
    """An axis whose size is the sum of dimensions: its place, and their names."""

    name: str
    axis: int
    parts: tuple[str, ...]


def parts_of(dimension: str) -> tuple[str, ...]:
    """Return the names of the dimensions that a dimension is the sum of; its own where it is none."""
    return tuple(dimension.split(_PLUS))


def sums(interface: Interface) -> tuple[Sum, ...]:
    """Find the axes of a model's inputs that are sums of its dimensions (`past + new`)."""
    return tuple(
        Sum(spec.name, axis, parts_of(dimension))
        for spec in interface.inputs
        for axis, dimension in enumerate(spec.shape or ())
        if isinstance(dimension, str) and _PLUS in dimension
    )


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


def with_dynamic(interface: Interface, kept: Sequence[Group], base: Mapping[str, Array]) -> Interface:
    """Write an interface's input shapes anew: the base's sizes, with the kept groups' names in place."""
    named = {place: group.name for group in kept for place in group.axes}
    names = set(named.values())
    named |= {(one.name, one.axis): _PLUS.join(one.parts) for one in sums(interface) if names.intersection(one.parts)}

    def shape(name: str) -> tuple[Dimension, ...]:
        return tuple(named.get((name, axis), size) for axis, size in enumerate(base[name].shape))

    inputs = tuple(TensorSpec(s.name, base[s.name].dtype.name, shape(s.name)) for s in interface.inputs)
    return replace(interface, inputs=inputs)


def output_specs(
    runs: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]],
    dimensions: Sequence[Group],
    together: Sequence[Sum] = (),
) -> tuple[TensorSpec, ...]:
    """Describe outputs from several runs: an axis that changes with a dimension's size carries its name.

    Args:
        runs: (inputs, outputs) of every run, the base first.
        dimensions: The dimensions that were varied.
        together: The sums of them that the inputs have.
    """
    base = runs[0][1]
    return tuple(
        TensorSpec(
            name,
            array.dtype.name,
            tuple(_output_axis(name, axis, runs, dimensions, together) for axis in range(array.ndim)),
        )
        for name, array in base.items()
    )


def _output_axis(
    name: str,
    axis: int,
    runs: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]],
    dimensions: Sequence[Group],
    together: Sequence[Sum],
) -> Dimension:
    sizes = [outputs[name].shape[axis] for _, outputs in runs]
    if len(set(sizes)) == 1:
        return int(sizes[0])
    for group in dimensions:
        place, at = group.axes[0]
        if sizes == [inputs[place].shape[at] for inputs, _ in runs]:
            return group.name
    for one in together:
        if sizes == [inputs[one.name].shape[one.axis] for inputs, _ in runs]:
            return _PLUS.join(one.parts)
    return f"{name}_{axis}"
