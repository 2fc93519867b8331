"""The plots of the report: how differences are spread, expected against actual, bars beside each other.

Each is drawn once for the same data: a report is written several times while its targets come in.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec

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
    drawn,
    placed,
)
from registry_export.report.text import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

P = ParamSpec("P")

_KEPT = 256
_MOST_BINS, _MOST_POINTS, _MOST_BARS = 64, 300, 64
"""A report that was read may hold anything; one of ours holds no more."""
_MOST_TICKS = 4
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
    """Keep what was drawn, and return an empty text where nothing can be: no plot is worth a report."""

    @functools.lru_cache(_KEPT)
    def kept(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return draw(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  fonts, settings, and numbers of a report that was read
            _log.warning("A plot could not be drawn: %s", error)
            return ""

    return kept  # type: ignore[return-value]


@or_nothing
def differences(name: str, found: Distribution) -> str:
    """Draw how many elements differ by how much, beside what was allowed; empty where none differ."""
    counts, edges = found.counts, found.edges
    if max(counts, default=0) <= 0 or len(counts) > _MOST_BINS or len(edges) != len(counts) + 1 or not _growing(edges):
        return ""

    def draw(axes: Axes) -> None:
        placed(axes, left=34, right=8, bottom=34, top=26)
        ends = [math.log10(edge) for edge in edges]
        marks = [math.log10(limit) for limit in found.allowed if limit > 0]
        low, high = min([*marks, ends[0], ends[-1] - 1]), max([*marks, ends[-1]])
        margin = 0.03 * (high - low)
        low, high = low - margin, high + margin
        heights = [_height(count) for count in counts]
        axes.stairs(heights, ends, fill=True, color=MARK, linewidth=0.5)
        top = max(heights) * 1.1
        axes.set_xlim(low, high)
        if marks:
            _draw_allowed(axes, (min(marks), max(marks)), heights, ends, top)
        axes.set_ylim(0, top)
        decades = _decades(math.ceil(low), math.floor(high))
        axes.set_xticks(decades, [_power(decade) for decade in decades])
        tens = _decades(0, int(math.log10(max(counts))))
        axes.set_yticks([_height(10**ten) for ten in tens], [_thousands(10**ten) for ten in tens])
        axes.grid(axis="x", color=LINE, linewidth=0.5)
        _named(axes, "|actual − expected|", "elements")

    beyond = f"; allowed: {' to '.join(map(number_text, dict.fromkeys(found.allowed)))}" if found.allowed else ""
    title = f"Differences of the output {name}: {number_text(edges[0])} to {number_text(edges[-1])}{beyond}"
    return drawn(draw, 380, 180, title)


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
    low, high = low - margin, high + margin

    def draw(axes: Axes) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path
        from matplotlib.ticker import MaxNLocator

        placed(axes, left=42, right=8, bottom=34, top=26)
        axes.plot([low, high], [low, high], color=LINE, linewidth=1)
        # One path of dots: a marker for each would be ten times as long.
        path = Path([end for pair in pairs for end in (pair, pair)], [Path.MOVETO, Path.LINETO] * len(pairs))
        axes.add_patch(PathPatch(path, fill=False, edgecolor=MARK, linewidth=3, capstyle="round", zorder=3))
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
        labels = [f"{tick:.3g}" for tick in ticks]
        axes.set_xticks(ticks, labels)
        axes.set_yticks(ticks, labels)
        _named(axes, "expected", "actual")

    return drawn(draw, 200, 180, f"Expected against actual values of the output {name}, {len(pairs)} elements")


@or_nothing
def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw bars below each other, the first on top; empty where none has a length."""
    rows = rows[:_MOST_BARS]
    lengths = [length for bar in rows for length in (bar.value, bar.further) if length is not None]
    if not lengths or not all(map(math.isfinite, lengths)) or min(lengths) < 0:
        return ""
    longest = max(lengths) or 1.0

    def draw(axes: Axes) -> None:
        placed(axes, left=108, right=90, bottom=4, top=4)
        for place, bar in enumerate(rows):
            if bar.further is not None:
                axes.barh(place, bar.further, 0.6, color=LINE)
            if bar.value is not None:
                axes.barh(place, bar.value, 0.6, color=SECOND if bar.strong else MARK)
            end = max(bar.value or 0.0, bar.further or 0.0)
            known = bar.value is not None
            _write(axes, bar.text, (end, place), (4, 0), INK if known else SOFT, va="center")
            _write(axes, _short(bar.label), (0, place), (-5, 0), INK, ha="right", va="center")
        axes.set_xlim(0, longest)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines["bottom"].set_visible(False)

    told = "; ".join(f"{bar.label} {bar.text}" for bar in rows)
    return drawn(draw, 340, 8 + 19 * len(rows), f"{title}: {told}")


def _draw_allowed(
    axes: Axes, allowed: tuple[float, float], heights: Sequence[float], ends: Sequence[float], top: float
) -> None:
    """Draw what was allowed, a line or the range of it, and in another colour the bins that are beyond all of it."""
    least, most = allowed
    beyond = [height if end >= most else 0 for height, end in zip(heights, ends, strict=False)]
    if any(beyond):
        axes.stairs(beyond, ends, fill=True, color=BEYOND, linewidth=0.5)
    if most > least:
        axes.axvspan(least, most, color=ALLOWED, alpha=0.14, linewidth=0, zorder=0)
    axes.vlines(sorted({least, most}), 0, top, color=ALLOWED, linewidth=1.2)
    to_the_left = most > sum(axes.get_xlim()) / 2
    _write(axes, "allowed", (most, top), (0, 4), ALLOWED, ha="right" if to_the_left else "left")


def _named(axes: Axes, across: str, upwards: str) -> None:
    """Name the axes: one below, the other at its upper end, where it can be read without turning the head."""
    axes.set_xlabel(across, color=SOFT, fontsize=LETTERS, labelpad=2)
    _write(axes, upwards, (axes.get_xlim()[0], axes.get_ylim()[1]), (-30, 14), SOFT)


def _write(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    color: str,
    *,
    ha: str = "left",
    va: str = "baseline",
) -> None:
    axes.annotate(text, at, offset, textcoords="offset points", color=color, ha=ha, va=va, annotation_clip=False)


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
