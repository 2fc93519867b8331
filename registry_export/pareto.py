"""Which variants nothing beats: small, fast and good, each as measured; a pure computation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry_export.entities import ExportReport, Status, TargetResult
from registry_export.evaluation_setup import EvaluationSetup

_TIME_DIGITS = 2
"""Of a median of calls the further digits are the machine's mood."""


@dataclass(frozen=True)
class Candidate:
    """A variant as it is compared.

    Attributes:
        variant: Its name.
        size_bytes: Of its files.
        latency_ms: Of one call; None where nothing is timed.
        metric: The first metric of its evaluation.
        on_front: Whether no other one is as good in everything and better in something.
    """

    variant: str
    size_bytes: int
    latency_ms: float | None
    metric: float
    on_front: bool = False


@dataclass(frozen=True)
class Comparison:
    """Size against metric against latency.

    Attributes:
        metric: What the source's evaluation names first.
        is_better_large: Whether more of it is better.
        candidates: The verified variants that have been evaluated as the source was, smallest first.
        left_out: The other variants, each with why it is not among them.
    """

    metric: str
    is_better_large: bool
    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def is_timed(self) -> bool:
        """Whether time is compared too."""
        return any(candidate.latency_ms is not None for candidate in self.candidates)

    @property
    def front(self) -> tuple[str, ...]:
        """The variants on the Pareto front, smallest first."""
        return tuple(candidate.variant for candidate in self.candidates if candidate.on_front)


def pareto_front(points: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Name the points that no other one dominates: as small in every coordinate, and smaller in one.

    Args:
        points: By name, coordinates of which less is better; equal points dominate each other not.
    """

    def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    return tuple(
        name for name, point in points.items() if not any(dominates(other, point) for other in points.values())
    )


def compared(report: ExportReport) -> Comparison | None:
    """Compare a version's variants; None where the source was not evaluated.

    Where some were timed and others not, the others are left out: nobody knows whether they are beaten.

    Args:
        report: With the evaluations of the source and of its targets.
    """
    source = report.source
    metric = next(iter(source.evaluation), "") if source is not None else ""
    if source is None or not metric:
        return None
    large = EvaluationSetup(max_drop=source.max_drop).falls(metric)
    timed = any(_latency(result) is not None for result in report.targets)
    left_out = {r.variant: why for r in report.targets if (why := _left_out(r, metric, source.evaluation_key, timed))}
    chosen = sorted(
        (_candidate(r, metric, timed) for r in report.targets if r.variant not in left_out),
        key=lambda candidate: (candidate.size_bytes, candidate.variant),
    )
    front = pareto_front({c.variant: _point(c, large) for c in chosen})
    marked = tuple(
        Candidate(c.variant, c.size_bytes, c.latency_ms, c.metric, on_front=c.variant in front) for c in chosen
    )
    return Comparison(metric, large, marked, tuple(left_out.items()))


def _left_out(result: TargetResult, metric: str, key: str, timed: bool) -> str:
    if result.status is not Status.VERIFIED:
        return f"it is {result.status}"
    if result.evaluation_key != key or metric not in result.evaluation or result.size_bytes is None:
        return "it was not evaluated as the source was"
    if timed and _latency(result) is None:
        return "it could not be timed here"
    return ""


def _candidate(result: TargetResult, metric: str, timed: bool) -> Candidate:
    latency = _latency(result) if timed else None
    return Candidate(result.variant, result.size_bytes or 0, latency, result.evaluation[metric])


def _point(candidate: Candidate, large: bool) -> tuple[float, ...]:
    time = () if candidate.latency_ms is None else (_rounded(candidate.latency_ms),)
    return (float(candidate.size_bytes), -candidate.metric if large else candidate.metric, *time)


def _rounded(milliseconds: float) -> float:
    return float(f"{milliseconds:.{_TIME_DIGITS}g}") if math.isfinite(milliseconds) else milliseconds


def _latency(result: TargetResult) -> float | None:
    return result.verification.latency_ms if result.verification is not None else None
