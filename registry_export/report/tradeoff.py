"""Size against metric against time: the plot, and the same in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from registry_export.entities import ExportReport
from registry_export.pareto import Comparison, compared
from registry_export.report.plots import or_nothing
from registry_export.report.svg import INK, LETTERS, LINE, MARK, SECOND, SOFT, Margins, Plot, round_ticks
from registry_export.report.text import size_text

_LEAST_POINTS, _MOST_POINTS = 2, 64
_AROUND = Margins(left=52, right=20, bottom=34, top=26)
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

    told = "; ".join(f"{n}: {p.variant}, {size_text(p.size_bytes)}, {p.metric:.4g}" for n, p in enumerate(points, 1))
    sizes = [math.log10(point.size_bytes) for point in points]
    plot = Plot(380, 220, f"{found.metric} over size: {told}", _AROUND, _around(sizes), _around(values))
    low, high = plot.x
    plot.axis_below([(tick, size_text(round(10**tick))) for tick in (low + (high - low) * s for s in (0.1, 0.5, 0.9))])
    plot.axis_beside([(tick, f"{tick:.4g}") for tick in round_ticks(*plot.y)], grid=True)
    if source is not None:
        plot.line([(low, source), (high, source)], SECOND)
        plot.words("source", (low, source), (4, 4), SOFT)
    plot.line([(size, p.metric) for size, p in zip(sizes, points, strict=True) if p.on_front], MARK, 0.8)
    for number, (size, point) in enumerate(zip(sizes, points, strict=True), 1):
        at, wide = (size, point.metric), width(point.latency_ms)
        plot.line([at], MARK if point.on_front else LINE, wide, dotted=True)
        plot.words(str(number), at, (wide / 2 + 3, -LETTERS / 3), INK)
    return plot.written()


def _around(numbers: list[float]) -> tuple[float, float]:
    """Return the ends of an axis that gives every number its room."""
    low, high = min(numbers), max(numbers)
    margin = 0.12 * (high - low) or 0.05
    return low - margin, high + margin
