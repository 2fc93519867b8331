"""The plots of the report: how differences are spread, expected against actual, bars beside each other."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec

from registry_export.entities import Distribution
from registry_export.report.svg import (
    ALLOWED,
    BEYOND,
    INK,
    LETTERS,
    LINE,
    MARK,
    SECOND,
    SOFT,
    Margins,
    Plot,
    round_ticks,
)
from registry_export.report.text import number_text

P = ParamSpec("P")

_MOST_BINS, _MOST_POINTS, _MOST_BARS = 64, 300, 64
"""A report that was read may hold anything; one of ours holds no more."""
_MOST_TICKS = 4
_AROUND = Margins(left=34, right=8, bottom=34, top=26)
_DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: What it stands for.
        value: Its length; None: there is none, and `text` says why.
        text: The value as people read it, at the bar's end.
        further: Up to where a lighter bar goes on; None: nowhere.
        strong: Whether it is the one that the others are compared with.
    """

    label: str
    value: float | None
    text: str
    further: float | None = None
    strong: bool = False


def or_nothing(draw: Callable[P, str]) -> Callable[P, str]:
    """Return an empty text where nothing can be drawn: no plot is worth a report."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return draw(*args, **kwargs)
        except (ArithmeticError, ValueError) as error:  # numbers of a report that was read
            _log.warning("A plot could not be drawn: %s", error)
            return ""

    return drawn


@or_nothing
def differences(name: str, found: Distribution) -> str:
    """Draw how many elements differ by how much, beside what was allowed; empty where none differ."""
    counts, edges = found.counts, found.edges
    if max(counts, default=0) <= 0 or len(counts) > _MOST_BINS or len(edges) != len(counts) + 1 or not _growing(edges):
        return ""
    ends = [math.log10(edge) for edge in edges]
    marks = [math.log10(limit) for limit in found.allowed if limit > 0]
    low, high = min([*marks, ends[0], ends[-1] - 1]), max([*marks, ends[-1]])
    margin = 0.03 * (high - low)
    heights = [_height(count) for count in counts]
    beyond = f"; allowed: {' to '.join(map(number_text, dict.fromkeys(found.allowed)))}" if found.allowed else ""
    title = f"Differences of the output {name}: {number_text(edges[0])} to {number_text(edges[-1])}{beyond}"
    plot = Plot(380, 180, title, _AROUND, (low - margin, high + margin), (0.0, max(heights) * 1.1))
    decades = _decades(math.ceil(plot.x[0]), math.floor(plot.x[1]))
    plot.axis_below([(decade, _power(decade)) for decade in decades], "|actual − expected|", grid=True)
    _draw_bins(plot, heights, ends, (min(marks), max(marks)) if marks else None)
    tens = _decades(0, int(math.log10(max(counts))))
    plot.axis_beside([(_height(10**ten), _thousands(10**ten)) for ten in tens], "elements")
    return plot.written()


@or_nothing
def agreement(name: str, found: Distribution) -> str:
    """Draw the export's values over the source's; empty where there are none."""
    pairs = list(zip(found.expected, found.actual, strict=False))[:_MOST_POINTS]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if not pairs:
        return ""
    values = [value for pair in pairs for value in pair]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    ends = low - margin, high + margin
    title = f"Expected against actual values of the output {name}, {len(pairs)} elements"
    plot = Plot(200, 180, title, replace(_AROUND, left=42), ends, ends)
    ticks = [(tick, f"{tick:.3g}") for tick in round_ticks(*ends)]
    plot.axis_below(ticks, "expected")
    plot.axis_beside(ticks, "actual")
    plot.line([(end, end) for end in ends], LINE)
    plot.line(pairs, MARK, 3, dotted=True)
    return plot.written()


@or_nothing
def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw bars below each other, the first on top; empty where none has a length."""
    rows = rows[:_MOST_BARS]
    lengths = [length for bar in rows for length in (bar.value, bar.further) if length is not None]
    if not lengths or not all(map(math.isfinite, lengths)) or min(lengths) < 0:
        return ""
    told = f"{title}: {'; '.join(f'{bar.label} {bar.text}' for bar in rows)}"
    around, ends = Margins(left=108, right=90, bottom=4, top=4), (0.0, max(lengths) or 1.0)
    plot = Plot(340, 8 + 19 * len(rows), told, around, ends, (len(rows) - 0.5, -0.5))
    for place, bar in enumerate(rows):
        if bar.further is not None:
            _draw_bar(plot, place, bar.further, LINE)
        if bar.value is not None:
            _draw_bar(plot, place, bar.value, SECOND if bar.strong else MARK)
        end = max(bar.value or 0.0, bar.further or 0.0)
        below = -0.35 * LETTERS
        plot.words(bar.text, (end, place), (4, below), INK if bar.value is not None else SOFT)
        plot.words(_short(bar.label), (0, place), (-5, below), INK, "end")
    plot.axis_beside([])
    return plot.written()


def _draw_bar(plot: Plot, place: int, length: float, colour: str) -> None:
    above, below = place - 0.3, place + 0.3
    plot.area([(0, above), (length, above), (length, below), (0, below)], colour)


def _draw_bins(
    plot: Plot, heights: Sequence[float], ends: Sequence[float], allowed: tuple[float, float] | None
) -> None:
    """Draw the bins with what was allowed, a line or a range; those beyond all of it have another colour."""
    if allowed is None:
        plot.area(_stairs(heights, ends), MARK)
        return
    least, most = allowed
    top = plot.y[1]
    if most > least:
        plot.area([(least, 0), (least, top), (most, top), (most, 0)], ALLOWED, 0.14)
    plot.area(_stairs(heights, ends), MARK)
    beyond = [height if end >= most else 0.0 for height, end in zip(heights, ends, strict=False)]
    if any(beyond):
        plot.area(_stairs(beyond, ends), BEYOND)
    for limit in sorted({least, most}):
        plot.line([(limit, 0), (limit, top)], ALLOWED, 1.2)
    to_the_left = most > sum(plot.x) / 2
    plot.words("allowed", (most, top), (0, 4), ALLOWED, "end" if to_the_left else "start")


def _stairs(heights: Sequence[float], ends: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of columns that stand side by side."""
    steps = zip(heights, itertools.pairwise(ends), strict=True)
    corners = [(end, height) for height, both in steps for end in both]
    return [(ends[0], 0.0), *corners, (ends[-1], 0.0)]


def _height(count: int) -> float:
    """Height of a bin: a tenfold count is one higher, and a single element can be seen."""
    return math.log10(count) + 0.3 if count > 0 else 0.0


def _decades(low: int, high: int) -> list[int]:
    step = max(1, math.ceil((high - low + 1) / _MOST_TICKS))
    return list(range(low, high + 1, step))


def _power(decade: int) -> str:
    return {0: "1", 1: "10"}.get(decade, f"10{str(decade).translate(_DIGITS)}")


def _thousands(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count // size}{letter}"
    return str(count)


def _short(label: str, most: int = 18) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _growing(edges: Sequence[float]) -> bool:
    growing = all(low < high for low, high in itertools.pairwise(edges))
    return edges[0] > 0 and math.isfinite(edges[-1]) and growing
