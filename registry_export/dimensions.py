"""The dimensions of a model that vary: found from their names, tied together, and written into its interface.

What really is dynamic is what a model still runs at; `variations` has what it is run on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.samples import Array

BATCH = "batch"
_PLUS = " + "
"""Between the names of a dimension that is the sum of others (a mask over a cache and what follows it)."""


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


def requested(dynamic: Mapping[str, Mapping[str, str]]) -> Interface:
    """Write the dimensions that targets ask for (input -> axis -> name) as an interface that names no others."""

    def shape(axes: Mapping[str, str]) -> tuple[Dimension, ...]:
        rank = max(int(axis) for axis in axes) + 1
        return tuple(axes.get(str(axis), -1) for axis in range(rank))

    return Interface(inputs=tuple(TensorSpec(name, "", shape(axes)) for name, axes in dynamic.items() if axes))


def renamed(declared: Interface, resolved: Interface) -> Interface:
    """Give a declared signature the model's names, by position where its own are not the model's."""
    if len(declared.inputs) != len(resolved.inputs):
        return Interface(inputs=())
    names = {spec.name for spec in resolved.inputs}
    if {spec.name for spec in declared.inputs} == names:
        return declared
    pairs = zip(declared.inputs, resolved.inputs, strict=True)
    return Interface(inputs=tuple(replace(d, name=r.name) for d, r in pairs))


def assumed_batch(base: Mapping[str, Array], declared: Interface) -> tuple[Group, ...]:
    """Take axis 0 for the batch where no shape is declared: of the inputs that agree on the commonest size."""
    if any(spec.shape is not None for spec in declared.inputs):
        return ()
    leading = {name: array.shape[0] for name, array in base.items() if array.ndim}
    if not leading:
        return ()
    sizes = tuple(leading.values())
    batch = max(sizes, key=lambda size: (sizes.count(size), size))
    return (Group(BATCH, tuple((name, 0) for name, size in leading.items() if size == batch), batch),)


def only_requested(kept: Sequence[Group], natural: Sequence[Group]) -> dict[str, dict[str, int]]:
    """Return the places that vary only because a target asked for it, with their sizes in the sample."""
    own = {place for group in natural for place in group.axes}
    found: dict[str, dict[str, int]] = {}
    for group in kept:
        for name, axis in group.axes:
            if group.name != BATCH and (name, axis) not in own:
                found.setdefault(name, {})[str(axis)] = group.size
    return found


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
