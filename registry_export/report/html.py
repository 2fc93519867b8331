"""The report as one HTML page without scripts and without anything to fetch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from registry_export.entities import VERDICTS, ExportReport, Status
from registry_export.report import beside, text
from registry_export.report.markdown import load_lines, reproduce_commands

if TYPE_CHECKING:
    from jinja2 import Template

_SYMBOLS = {Status.VERIFIED: "✓", Status.UNVERIFIED: "?", Status.MISMATCH: "≠", Status.FAILED: "✕"}


def to_html(report: ExportReport) -> str:
    """Write a report as a self-contained HTML page; every text is escaped."""
    worst_first = sorted(report.targets, key=lambda result: -_rank(result.status))
    return _template().render(
        report=report,
        details=worst_first,
        symbols=_SYMBOLS,
        sentence=text.verdict_sentence(report),
        load={result.variant: "\n".join(load_lines(report, result)) for result in report.targets},
        commands=reproduce_commands(report),
        latency=beside.latency_text,
        source_latency=beside.source_latency_text(report.source),
        against_source={r.variant: beside.against_source(r, report.source) for r in report.targets},
        against_earlier={r.variant: beside.against_earlier(r, report.compared_with) for r in report.targets},
    )


def _rank(status: Status) -> int:
    return VERDICTS.index(status) if status in VERDICTS else len(VERDICTS)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("registry_export", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
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
        usable=text.is_usable,
    )
    return environment.get_template("report.html.j2")
