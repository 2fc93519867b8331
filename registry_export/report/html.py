"""The report as one HTML page without scripts and without anything to fetch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_export.entities import (
    VERDICTS,
    Attempt,
    Distribution,
    ExportReport,
    Snippet,
    SourceRecord,
    Status,
    TargetResult,
)
from registry_export.report import beside, plots, text
from registry_export.report.loading import snippets
from registry_export.report.markdown import reproduce_commands
from registry_export.report.routes import Route, routes_given_up, taken_route, tries_within
from registry_export.report.svg import prepare_plots
from registry_export.report.templating import template
from registry_export.report.tradeoff import tradeoff_of

if TYPE_CHECKING:
    from jinja2 import Template

_SOURCE = "source"
_PARTS = ("macros.html.j2", "outline.html.j2", "report.css", "target.html.j2")
"""What the page's template includes."""


@dataclass(frozen=True)
class ErrorPlots:
    """The plots of one output; `differences` and `agreement` are SVG, empty where there is nothing to draw."""

    output: str
    found: Distribution
    differences: str
    agreement: str


@dataclass(frozen=True)
class View:
    """What the page shows of one target besides its record."""

    result: TargetResult
    details: Mapping[str, str]
    snippets: tuple[Snippet, ...]
    command: str
    against_source: str
    against_earlier: str
    evaluation: str
    route: Route | None
    given_up: tuple[Route, ...]
    tries: tuple[Attempt, ...]
    plots: tuple[ErrorPlots, ...]


def to_html(report: ExportReport) -> str:
    """Write a report as a self-contained HTML page; every text is escaped."""
    commands = reproduce_commands(report)
    views = [_view(report, result, commands[result.variant]) for result in report.targets]
    return _template().render(
        report=report,
        views=views,
        details=sorted(views, key=lambda view: -_rank(view.result.status)),
        sentence=text.verdict_sentence(report),
        approval=text.approval_text(report.approval),
        latency=beside.latency_text,
        source_latency=beside.source_latency_text(report.source),
        latencies=latency_bars(report),
        sizes=size_bars(report),
        tradeoff=tradeoff_of(report),
    )


def prepare_report() -> None:
    """Import and compile what a report is made with, which takes half a second of a core once."""
    prepare_plots()
    for name in _PARTS:
        _template().environment.get_template(name)


def draw_ahead(result: TargetResult) -> None:
    """Draw what the report will show of a target, while others are still being made."""
    error_plots(result)


def error_plots(result: TargetResult) -> tuple[ErrorPlots, ...]:
    """Draw what is known of a target's differences."""
    known = result.verification.distributions if result.verification is not None else {}
    return tuple(
        ErrorPlots(name, found, plots.differences(name, found), plots.agreement(name, found))
        for name, found in known.items()
    )


def latency_bars(report: ExportReport) -> str:
    """Draw the time of one call of the source and of every export beside each other; empty without any."""
    timed = report.source.latency if report.source is not None else None
    rows = [_latency_bar(_SOURCE, timed.median_ms, timed.p90_ms, strong=True)] if timed is not None else []
    for result in report.targets:
        known = result.verification
        if known is not None and known.latency_ms is not None:
            rows.append(_latency_bar(result.variant, known.latency_ms, known.latency_p90_ms))
    return plots.bars("Time of one call", tuple(rows)) if any(bar.label != _SOURCE for bar in rows) else ""


def size_bars(report: ExportReport) -> str:
    """Draw the size of the source and of every export beside each other; empty without any."""
    before = _source_size(report.source)
    rows = [plots.Bar(_SOURCE, before, text.size_text(before), strong=True)] if before else []
    for result in report.targets:
        if (size := result.size_bytes) is not None:
            share = f" ({size / before:.0%})".replace("%", " %") if before else ""
            rows.append(plots.Bar(result.variant, size, text.size_text(size) + share))
    return plots.bars("Size", tuple(rows)) if any(bar.label != _SOURCE for bar in rows) else ""


def _latency_bar(label: str, median_ms: float, p90_ms: float | None, *, strong: bool = False) -> plots.Bar:
    return plots.Bar(label, median_ms, f"{median_ms:.3g} ms", p90_ms, strong)


def _source_size(source: SourceRecord | None) -> int:
    return (source.checkpoint_bytes or source.size_bytes) if source is not None else 0


def _view(report: ExportReport, result: TargetResult, command: str) -> View:
    return View(
        result,
        _details(result),
        snippets(report, result),
        command,
        beside.against_source(result, report.source),
        beside.against_earlier(result, report.compared_with),
        beside.evaluation_text(result, report.source),
        taken_route(result),
        routes_given_up(result),
        tries_within(result),
        error_plots(result),
    )


def _details(result: TargetResult) -> dict[str, str]:
    """Label what the file says of itself as the page's other rows are; operators that are counted are named there."""
    description = result.description
    if description is None:
        return {}
    counted = description.outline is not None and bool(description.outline.operators)
    shown = {name: text for name, text in description.details.items() if name != "operators" or not counted}
    return {f"{name[:1].upper()}{name[1:]}".replace("_", " "): text for name, text in shown.items()}


def _rank(status: Status) -> int:
    return VERDICTS.index(status) if status in VERDICTS else len(VERDICTS)


@functools.cache
def _template() -> Template:
    return template(
        "report.html.j2",
        size=text.size_text,
        number=text.number_text,
        shape=text.shape_text,
        tolerance=text.tolerance_text,
        allowed=text.allowed_text,
        noise=text.noise_text,
        worst=text.worst_text,
        metrics=text.metrics_texts,
        version=text.version_text,
        reason=text.reason_text,
        evidence=text.evidence_text,
        time=text.time_text,
    )
