"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, SourceRecord, TargetResult, Verification
from registry_export.manifest import reproduce_command
from registry_export.report.beside import (
    against_earlier,
    against_source,
    evaluation_text,
    latency_text,
    source_latency_text,
)
from registry_export.report.loading import snippets
from registry_export.report.text import (
    MISSING,
    allowed_text,
    approval_text,
    escaped,
    evidence_text,
    metrics_texts,
    noise_text,
    number_text,
    reason_text,
    sandbox_text,
    shape_text,
    size_text,
    time_text,
    tolerance_text,
    verdict_sentence,
    version_text,
    worst_text,
)
from registry_export.report.tradeoff import tradeoff_of

_FENCES = {"Python": "python", "Swift": "swift", "Kotlin": "kotlin", "C++": "cpp"}


def to_markdown(report: ExportReport) -> str:
    """Write a report as Markdown: the verdict, the table of targets, then each target."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ExportReport) -> Iterator[str]:
    yield f"# Exports of {escaped(str(report.model_version))}: {report.status}"
    yield ""
    yield escaped(verdict_sentence(report))
    yield ""
    yield f"Trigger `{report.trigger}`, {time_text(report.created_at) or 'time unknown'}."
    if report.approval is not None:
        yield escaped(approval_text(report.approval))
    if report.source is not None:
        yield from _source(report.source)
    if report.compared_with is not None:
        earlier = report.compared_with
        yield f"Compared with {escaped(str(earlier.model_version))}, exported before for `{earlier.trigger}`."
    if (front := tradeoff_of(report)) is not None:
        yield ""
        yield escaped(front.sentence)
    if report.targets:
        yield ""
        yield "| target | status | version | size | max abs diff | tolerance | seconds |"
        yield "|---|---|---|---|---|---|---|"
        yield from (_row(result) for result in report.targets)
    commands = reproduce_commands(report)
    for result in report.targets:
        yield from _target(report, result, commands[result.variant])
    if report.tools:
        yield ""
        yield "Made with " + ", ".join(f"{name} {version}" for name, version in report.tools.items()) + "."


def _source(source: SourceRecord) -> Iterator[str]:
    what = f"{source.flavor or source.format}, {size_text(source.checkpoint_bytes or source.size_bytes)}"
    yield f"Source: {what}, sha256 of all its files `{source.sha256}`."
    if source.evidence:
        yield f"Verified with {evidence_text(source.evidence)}. {escaped(noise_text(source.noise))}".rstrip()
    if walls := sandbox_text(source.sandbox):
        yield walls
    if timed := source_latency_text(source):
        yield f"One call of the source: {timed}."
    yield from (f"\n> {escaped(note)}" for note in source.notes)


def _row(result: TargetResult) -> str:
    verification = result.verification
    cells = (
        result.variant,
        str(result.status),
        version_text(result) or MISSING,
        size_text(result.size_bytes),
        number_text(verification.metrics.max_abs_diff if verification else None),
        tolerance_text(verification.tolerance if verification else None).replace("|", "\\|"),
        MISSING if result.convert_seconds is None else f"{result.convert_seconds:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def _target(report: ExportReport, result: TargetResult, command: str) -> Iterator[str]:
    yield ""
    yield f"## {result.variant}: {result.status}"
    yield ""
    if reason := reason_text(result):
        yield escaped(reason)
        yield ""
    if result.path:
        yield f"- Path: {' → '.join(result.path)}"
    if result.description is not None:
        for role, specs in (
            ("Input", result.description.interface.inputs),
            ("Output", result.description.interface.outputs),
        ):
            yield from (f"- {role} `{spec.name or 'unnamed'}`: {spec.dtype} {shape_text(spec)}" for spec in specs)
    if result.sha256:
        yield f"- sha256 of its files: `{result.sha256}`"
    yield from (f"- {escaped(line)}" for line in _beside(report, result))
    if result.verification is not None:
        yield from _rungs(result.verification)
    yield from (f"- Tried {attempt.way}: {escaped(attempt.error) or 'worked'}" for attempt in result.attempts)
    yield from (f"- {escaped(note)}" for note in result.notes)
    yield ""
    for snippet in snippets(report, result):
        yield f"{snippet.language}, {escaped(snippet.runtime)}:"
        yield ""
        yield f"```{_FENCES.get(snippet.language, '')}"
        yield snippet.code
        yield "```"
        yield ""
    yield "```sh"
    yield command
    yield "```"


def _rungs(verification: Verification) -> Iterator[str]:
    yield f"- {escaped(allowed_text(verification))}"
    if verification.by != "runtime":
        yield f"- Verified by {escaped(verification.runtime)}, in its runtime's place"
    if worst := worst_text(verification.metrics.worst):
        yield f"- {escaped(worst)}"
    if verification.divergence is not None:
        yield f"- Where it goes wrong: {escaped(verification.divergence.sentence)}"
    for rung in verification.rungs:
        counted = "" if rung.judged else " (not counted)"
        yield f"- {rung.name}: {rung.status}{counted}{': ' + escaped(rung.reason) if rung.reason else ''}"
        for name, metrics in rung.outputs.items():
            yield f"  - `{name}`: " + ", ".join(f"{key} {text}" for key, text in metrics_texts(metrics).items())


def _beside(report: ExportReport, result: TargetResult) -> Iterator[str]:
    """Yield lines on speed, on size and on when it was verified, beside the source and the version before."""
    if call := latency_text(result.verification):
        yield f"One call: {call}"
    if told := against_source(result, report.source):
        yield f"Beside the source: {told}"
    if told := evaluation_text(result, report.source):
        yield f"How good it is: {told}"
    if told := against_earlier(result, report.compared_with):
        yield f"Beside the version before: {told}"
    verification = result.verification
    if verification is not None and verification.tools:
        tools = ", ".join(f"{name} {version}" for name, version in verification.tools.items())
        yield f"Verified again {time_text(verification.verified_at)}, with {tools}"


def reproduce_commands(report: ExportReport) -> dict[str, str]:
    """Return the command that makes each variant again."""
    formats = discover_formats()
    return {
        result.variant: reproduce_command(report.model_version, result.format, result.options, formats)
        for result in report.targets
    }
