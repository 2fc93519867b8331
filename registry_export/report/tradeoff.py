"""Size against metric against time: the plot, and the same in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_export.entities import ExportReport
from registry_export.pareto import Comparison, compared
from registry_export.report.plots import or_nothing
from registry_export.report.svg import INK, LETTERS, LINE, MARK, SECOND, SOFT, drawn, placed
from registry_export.report.text import size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_POINTS, _MOST_POINTS = 2, 64
_LEAST_WIDTH, _MOST_WIDTH = 9.0, 24.0
"""Of a point: the slowest call has the largest area."""


@dataclass(frozen=True)
class Tradeoff:
    """What the report shows of its variants: in a sentence, as a plot (SVG, empty where there is none), one by one."""

    found: Comparison
    sentence: str
    plot: str


def tradeoff_of(report: ExportReport) -> Tradeoff | None:
    """Compare a report's variants; None where they were not evaluated, or there is none to compare."""
    found = compared(report)
    if found is None or not found.candidates or report.source is None:
        return None
    return Tradeoff(found, front_text(found), tradeoff_plot(found, report.source.evaluation.get(found.metric)))


def front_text(found: Comparison) -> str:
    """Say which variants nothing beats, and which could not be compared."""
    what = f"size, {found.metric} and time of a call" if found.is_timed else f"size and {found.metric}"
    beaten = [candidate.variant for candidate in found.candidates if not candidate.on_front]
    sentences = [f"On the Pareto front of {what}: {', '.join(found.front) or 'none'}."]
    if beaten:
        sentences.append(f"Beaten by another one in something and in nothing better: {', '.join(beaten)}.")
    if found.left_out:
        told = "; ".join(f"{variant} ({why})" for variant, why in found.left_out)
        sentences.append(f"Not compared: {told}.")
    return " ".join(sentences)


@or_nothing
def tradeoff_plot(found: Comparison, source: float | None) -> str:
    """Draw every variant's metric over its size, its time as the size of its point; empty of fewer than two.

    Args:
        found: The variants.
        source: The source's metric.
    """
    points = found.candidates[:_MOST_POINTS]
    values = [point.metric for point in points] + ([source] if source is not None else [])
    drawable = all(map(math.isfinite, values)) and all(point.size_bytes > 0 for point in points)
    if len(points) < _LEAST_POINTS or not drawable:
        return ""
    slowest = max((point.latency_ms or 0.0 for point in points), default=0.0)

    def width(latency_ms: float | None) -> float:
        share = (latency_ms or 0.0) / slowest if slowest > 0 else 0.0
        return math.sqrt(_LEAST_WIDTH**2 + (_MOST_WIDTH**2 - _LEAST_WIDTH**2) * share)

    def draw(axes: Axes) -> None:
        placed(axes, left=52, right=20, bottom=34, top=26)
        sizes = [math.log10(point.size_bytes) for point in points]
        _fit(axes, sizes, values)
        if source is not None:
            axes.axhline(source, color=SECOND, linewidth=1, zorder=1)
            at = (axes.get_xlim()[1], source)  # beneath, where no number of a point stands
            axes.annotate("source", at, (-2, -LETTERS - 3), textcoords="offset points", color=SOFT, ha="right")
        front = [(size, p.metric) for size, p in zip(sizes, points, strict=True) if p.on_front]
        axes.plot(*zip(*front, strict=True), color=MARK, linewidth=0.8, zorder=1)
        for number, (size, point) in enumerate(zip(sizes, points, strict=True), 1):
            at, colour = (size, point.metric), MARK if point.on_front else LINE
            # A line of no length with round ends: markers would be shared definitions, which a page has no place for.
            wide = width(point.latency_ms)
            axes.plot([size] * 2, [point.metric] * 2, color=colour, linewidth=wide, solid_capstyle="round", zorder=2)
            above = (0, wide / 2 + 3)
            axes.annotate(str(number), at, above, textcoords="offset points", color=INK, ha="center", zorder=3)

    told = "; ".join(f"{n}: {p.variant}, {size_text(p.size_bytes)}, {p.metric:.4g}" for n, p in enumerate(points, 1))
    return drawn(draw, 380, 220, f"{found.metric} over size: {told}")


def _fit(axes: Axes, sizes: list[float], values: list[float]) -> None:
    """Give every point its room, and the axes a few ticks that people can read."""
    from matplotlib.ticker import MaxNLocator

    for numbers, set_limits in ((sizes, axes.set_xlim), (values, axes.set_ylim)):
        low, high = min(numbers), max(numbers)
        margin = 0.12 * (high - low) or 0.05
        set_limits(low - margin, high + margin)
    low, high = axes.get_xlim()
    ticks = [low + (high - low) * share for share in (0.1, 0.5, 0.9)]
    axes.set_xticks(ticks, [size_text(round(10**tick)) for tick in ticks])
    low, high = axes.get_ylim()
    marks = [mark for mark in MaxNLocator(4).tick_values(low, high) if low <= mark <= high]
    axes.set_yticks(marks, [f"{mark:.4g}" for mark in marks])
    axes.grid(axis="y", color=LINE, linewidth=0.5)
