"""Where an export leaves its source: two traces compared by their tensors' sketches.

Names, layouts and fusion differ, so a tensor of one side *agrees* when any tensor of the other side is within
the tolerance of it. What is fused away agrees with nothing and is no fault, as long as something made from it
agrees. The place is the first tensor of the source that does not agree, whose descendants do not either, and that
a differing output was made from; the same on the export's side.

How near is near? The noise of a right export and the effect of a fault differ from model to model, so the
place is looked for at many levels, and the one that most of them name is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry_export.sketches import Sketch
from registry_export.tracing import Trace, Traced

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_LEVELS = 24
_FINEST, _FINEST_OF_COARSE = 0.01, 0.3
"""The lowest level, as a share of what is allowed: what rounding leaves of a right export is above it soon enough."""
_COARSE = 2e-3
_FARTHEST = 30.0
_AKIN = 0.8
"""A differing tensor is still that of the source when it is nearer to it than this share of its size."""
_FUSED = 0.4
_MOST_ASKED = 2
_PLAIN = 0.1
_LEAST_FOR_MOMENTS = 16
_SAME = 1e-2


@dataclass(frozen=True)
class Place:
    """The first place where two runs differ.

    Attributes:
        source: The source's first tensor that differs; None: none does.
        within: Those of the source's that the export computes in one with it, the first and the last included.
        before: The last one before it that agrees; None: there is none.
        export: The export's first tensor that agrees with nothing, or the one behind it that is meant to be the
            source's; None: all agree.
        difference: Root mean square of the difference of that pair, as a share of what varies in the source's; None:
            they are no pair.
        agreeing: How many tensors of the source agree.
    """

    source: Traced | None
    within: tuple[Traced, ...]
    before: Traced | None
    export: Traced | None
    difference: float | None
    agreeing: int


def locate(source: Trace, export: Trace, allowed: float) -> Place:
    """Find the first place where an export leaves its source.

    Args:
        source: Sketched with the axes in every order.
        export: Sketched plainly.
        allowed: The relative difference that the tolerance allows.
    """
    ours, theirs = _Side(source), _Side(export)
    near = np.full(len(ours.tensors), math.inf), np.full(len(theirs.tensors), math.inf)
    for i in ours.telling:
        found, distances = theirs.distances(ours.sketch(i))
        if found.size:
            near[0][i] = distances.min()
            near[1][found] = np.minimum(near[1][found], distances)
    off, differing = _differing(source.outputs, export.outputs, allowed)
    relevant = ours.ancestors(source.outputs, differing), theirs.ancestors(export.outputs, differing)
    level = _steadiest(
        [ours.first(near[0] <= level * allowed, relevant[0]) for level in _levels(allowed, off)],
        _levels(allowed, off),
    )
    agree = near[0] <= level * allowed, near[1] <= level * allowed
    first = ours.first(agree[0], relevant[0]), theirs.first(agree[1], relevant[1])
    return _described(ours, theirs, agree, relevant[0], first)


def _described(
    ours: _Side, theirs: _Side, agree: tuple[Flags, Flags], relevant: Flags, first: tuple[int | None, int | None]
) -> Place:
    start, other = first
    within: list[int] = [] if start is None else [start]
    difference = None
    if start is not None and other is not None:
        end, difference = _counterpart(
            ours, theirs, start, other, (ours.stray(agree[0]) & relevant, theirs.stray(agree[1]))
        )
        if end is not None:
            line = ours.line(end)
            between = [i for i in range(start, end + 1) if line[i] and not agree[0][i] and ours.says(i)]
            within = between if line[start] else [end]
    if difference is not None and other is not None:
        other, difference = _pair(ours.sketch(within[-1]), theirs, other, difference, theirs.stray(agree[1]))
    earlier = ours.line(start) if start is not None else np.ones(len(ours.tensors), bool)
    agreed = [i for i in np.flatnonzero(agree[0]) if earlier[i]]
    return Place(
        source=ours.tensors[within[0]] if within else None,
        within=tuple(ours.tensors[i] for i in within),
        before=ours.tensors[agreed[-1]] if agreed else None,
        export=theirs.tensors[other] if other is not None else None,
        difference=difference,
        agreeing=int(agree[0].sum()),
    )


def _counterpart(
    ours: _Side, theirs: _Side, start: int, other: int, stray: tuple[Flags, Flags]
) -> tuple[int | None, float | None]:
    """Find which of the source's differing tensors the export's first one is meant to be.

    It is the source's first one, unless a later one is far nearer: what is between is computed in one there. Where it
    is like none (a convolution that has only the scale of the batch norm behind it), what is made from it is asked.
    """
    line = [other]
    for j in map(int, np.flatnonzero(stray[1])):
        if len(line) < _MOST_ASKED and j > other and set(theirs.tensors[j].after) & set(line):
            line.append(j)
    for count, asked in enumerate(line):
        away = {i: theirs.distance(ours.sketch(i), asked) for i in map(int, np.flatnonzero(stray[0])) if i >= start}
        nearest = min(away, key=lambda i: away[i], default=start)
        if away.get(nearest, math.inf) < min(_FUSED / (1 + count), away.get(start, math.inf) / 2):
            return nearest, away[nearest]
        if away.get(start, math.inf) < _AKIN:
            return start, away[start]
    return None, None


def _pair(one: Sketch, theirs: _Side, other: int, difference: float, stray: Flags) -> tuple[int, float]:
    """Go on from the export's first tensor to the one that is meant to be the source's, where that is plain.

    A layer norm that the export computes step by step begins with steps that the source does not have.
    """
    away = {j: theirs.distance(one, j) for j in map(int, np.flatnonzero(stray)) if j >= other}
    nearest = min(away, key=lambda j: away[j], default=other)
    plain = away.get(nearest, math.inf) < min(_PLAIN, difference / 2)
    return (nearest, away[nearest]) if plain else (other, difference)


def _levels(allowed: float, off: float) -> Floats:
    """Levels from the noise of a right export up to a third of what the outputs are off by."""
    lowest = _FINEST if allowed <= _COARSE else _FINEST_OF_COARSE
    highest = max(1.0, min(_FARTHEST, off / allowed) / 3)
    return np.asarray(np.geomspace(lowest, highest, _LEVELS), np.float64)


def _steadiest(places: Sequence[int | None], levels: Floats) -> float:
    """Return the middle of the longest run of levels that name one place."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[start]:
            if places[start] is not None:
                runs.append((start, i))
            start = i
    begin, end = max(runs, key=lambda run: run[1] - run[0], default=(0, 1))
    return float(levels[(begin + end - 1) // 2])


def _differing(expected: Mapping[str, Sketch], actual: Mapping[str, Sketch], allowed: float) -> tuple[float, set[str]]:
    """Return how far the worst output is off, and the names of those that are off by a tenth of that or more."""
    off: dict[str, float] = {}
    for name, one in expected.items():
        other = actual.get(name)
        off[name] = _FARTHEST * allowed if other is None else min(_apart(one, other), _FARTHEST * allowed)
    worst = max(off.values(), default=allowed)
    return worst, {name for name, value in off.items() if value >= worst / 10}


def _apart(one: Sketch, other: Sketch) -> float:
    if one.shape != other.shape or one.odd != other.odd:
        return math.inf
    size = max(one.size[2], 1e-300)
    moments = max(abs(a - b) / max(s, 1e-300) for a, b, s in zip(one.moments, other.moments, one.size, strict=True))
    return max(moments, _root(np.array(one.flat) - np.array(other.flat)) / size)


def _root(difference: Floats) -> float:
    return float(np.sqrt(np.mean(difference**2))) if difference.size else 0.0


@dataclass(frozen=True)
class _Pile:
    """The sketches of tensors with the same number of elements, stacked."""

    positions: NDArray[np.int64]
    moments: Floats
    flat: Floats
    axes: Sequence[Sequence[float]]
    shapes: Sequence[tuple[int, ...]]


class _Side:
    """One run: its tensors, how they depend on each other, and the search for what is like another."""

    def __init__(self, trace: Trace) -> None:
        self.tensors = trace.tensors
        self.telling = [i for i in range(len(self.tensors)) if self.says(i)]
        piles: dict[tuple[int, int], list[int]] = {}
        for i in self.telling:
            piles.setdefault((self.sketch(i).elements, self.sketch(i).odd), []).append(i)
        self._piles = {key: self._pile(positions) for key, positions in piles.items()}

    def says(self, i: int) -> bool:
        """Whether a tensor is evidence."""
        found = self.tensors[i].sketch
        return found is not None and found.says

    def sketch(self, i: int) -> Sketch:
        """Return the sketch of a tensor that has one."""
        found = self.tensors[i].sketch
        assert found is not None
        return found

    def _pile(self, positions: Sequence[int]) -> _Pile:
        sketches = [self.sketch(i) for i in positions]
        return _Pile(
            np.array(positions),
            np.array([s.moments for s in sketches]),
            np.array([s.flat for s in sketches]),
            [s.axes[0] if s.axes else s.flat for s in sketches],
            [tuple(sorted(s.shape)) for s in sketches],
        )

    def distances(self, one: Sketch) -> tuple[NDArray[np.int64], Floats]:
        """Return the tensors that could be this one, and how far each is, as a share of its size."""
        pile = self._piles.get((one.elements, one.odd))
        if pile is None:
            return np.zeros(0, np.int64), np.zeros(0)
        sizes = np.maximum(np.array(one.size), 1e-300)
        moments = (np.abs(pile.moments - np.array(one.moments)) / sizes).max(axis=1)
        nearest = np.sqrt(((pile.flat - np.array(one.flat)) ** 2).mean(axis=1))
        same = np.array([shape == tuple(sorted(one.shape)) for shape in pile.shapes])
        for axes in one.axes if same.any() else ():
            along = np.array([pile.axes[i] for i in np.flatnonzero(same)])
            nearest[same] = np.minimum(nearest[same], np.sqrt(((along - np.array(axes)) ** 2).mean(axis=1)))
        nearest /= sizes[2]
        if one.elements >= _LEAST_FOR_MOMENTS:
            nearest[~same] = 0  # other sizes, perhaps in another order: the moments alone have to tell
        return pile.positions, np.maximum(moments, nearest)

    def distance(self, one: Sketch, position: int) -> float:
        """Return how far one of this side's tensors is from another, as a share of what varies in that one.

        Infinite where it cannot be the same.
        """
        found, distances = self.distances(one)
        place = np.flatnonzero(found == position)
        if not place.size:
            return math.inf
        mean, root = one.moments[0], one.moments[2]
        return float(distances[place[0]]) * root / math.sqrt(max(root**2 - mean**2, 1e-12 * root**2))

    def ancestors(self, outputs: Mapping[str, Sketch], names: set[str]) -> Flags:
        """Mark what the outputs named were made from; everything where they are not found."""
        marked = np.zeros(len(self.tensors), bool)
        for name in names & set(outputs):
            found, distances = self.distances(outputs[name])
            if found.size and distances.min() <= _SAME:
                marked[found[distances <= max(_SAME / 10, float(distances.min()))]] = True
        if not marked.any():
            return np.ones(len(self.tensors), bool)
        for i in range(len(self.tensors) - 1, -1, -1):
            if marked[i]:
                marked[list(self.tensors[i].after)] = True
        return marked

    def line(self, last: int) -> Flags:
        """Mark a tensor and what it was made from."""
        marked = np.zeros(len(self.tensors), bool)
        marked[last] = True
        for i in range(last, -1, -1):
            if marked[i]:
                marked[list(self.tensors[i].after)] = True
        return marked

    def stray(self, agree: Flags) -> Flags:
        """Mark what does not agree and of whose descendants none does."""
        excused = np.array(agree)
        for i in range(len(self.tensors) - 1, -1, -1):
            if excused[i]:
                excused[list(self.tensors[i].after)] = True
        return np.array([not excused[i] and self.says(i) for i in range(len(self.tensors))], bool)

    def first(self, agree: Flags, relevant: Flags) -> int | None:
        """Return the first tensor that differs for good."""
        found = np.flatnonzero(self.stray(agree) & relevant)
        return int(found[0]) if found.size else None
