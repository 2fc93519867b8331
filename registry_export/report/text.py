"""Numbers, sizes, shapes and verdicts as people read them."""

from __future__ import annotations

import html
import re
from collections import Counter
from datetime import UTC, datetime

from registry_export.entities import (
    VERDICTS,
    Approval,
    ExportReport,
    Metrics,
    NoiseFloor,
    Status,
    TargetResult,
    TensorSpec,
    Tolerance,
    Verification,
    WorstElement,
)

MISSING = "–"

_LONGEST_TAG = 500
_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000
_WHOLE_FROM = 100
_PLAIN_FROM, _PLAIN_TO = 0.01, 10_000
_EVIDENCE = {
    "samples": "samples of the rule",
    "example": "the version's input example",
    "random": "random numbers drawn from the signature: the weakest evidence",
}


_LARGEST = 10**30


def size_text(size_bytes: int | None) -> str:
    """Write a size in decimal units: `44.7 MB`, `812 kB`, `312 B`."""
    if size_bytes is None:
        return MISSING
    size, unit = float(max(-_LARGEST, min(size_bytes, _LARGEST))), 0  # a report that was read may say anything
    # Rounding must not make "1000 kB" of 999,999 bytes.
    while round(size) >= _THOUSAND and unit < len(_UNITS) - 1:
        size, unit = size / _THOUSAND, unit + 1
    whole = unit == 0 or size >= _WHOLE_FROM
    return f"{size:.0f} {_UNITS[unit]}" if whole else f"{size:.1f} {_UNITS[unit]}"


def number_text(value: float | None) -> str:
    """Write a measured difference: `2.4e-07`, `31.6`, and `0` for an exact match."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    return f"{value:.3g}" if _PLAIN_FROM <= value < _PLAIN_TO else f"{value:.1e}"


def shape_text(spec: TensorSpec) -> str:
    """Write a shape: `(batch, 3, 8, 8)`; `any rank` where nothing is known."""
    if spec.shape is None:
        return "any rank"
    sizes = ", ".join(str(size) for size in spec.shape)
    return f"({sizes},)" if len(spec.shape) == 1 else f"({sizes})"


def tolerance_text(tolerance: Tolerance | None) -> str:
    """Write a tolerance as the inequality that it is, with the least signal-to-noise ratio where it names one."""
    if tolerance is None:
        return MISSING
    parts = [f"{tolerance.atol:g} + {tolerance.rtol:g} · |expected|"] if tolerance.by_element else []
    parts += [f"{tolerance.snr_db:g} dB"] if tolerance.snr_db is not None else []
    return ", ".join(parts)


def allowed_text(verification: Verification) -> str:
    """Say what was allowed, who said so, and what would have been otherwise."""
    text = f"Allowed: {tolerance_text(verification.tolerance)}"
    if verification.tolerance is not None and verification.tolerance.default:
        return f"{text}, the default of its precision, or ten times the source's own noise where that is more."
    if verification.default_tolerance is not None:
        return f"{text}, as the rule says; the default is {tolerance_text(verification.default_tolerance)}."
    return f"{text}."


def noise_text(noise: NoiseFloor | None) -> str:
    """Say how far a source is from itself; empty where nobody knows."""
    if noise is None or not noise.ways:
        return ""
    floors = ", ".join(f"{name} {number_text(value)}" for name, value in noise.outputs.items())
    return f"Noise floor of the source: {floors} (its largest difference from itself; {', '.join(noise.ways)})."


def sandbox_text(sandbox: str) -> str:
    """Say what stood around the processes that ran the checkpoint's code; empty where it was not loaded."""
    if not sandbox:
        return ""
    return f"Loaded in a sandbox: {sandbox}."


def worst_text(worst: WorstElement | None) -> str:
    """Say where two outputs differ most; empty where there is nothing to say."""
    if worst is None:
        return ""
    place = f"{worst.output}{list(worst.index)}" if worst.index else worst.output
    on = f" on {worst.rung}" if worst.rung else ""
    expected, actual = (MISSING if v is None else f"{v:.7g}" for v in (worst.expected, worst.actual))
    return f"Nearest to what is allowed, or furthest beyond it: {place}{on}, expected {expected}, actual {actual}."


def metrics_texts(metrics: Metrics) -> dict[str, str]:
    """Write every metric that has a value, by its name."""
    texts = {
        "max abs diff": number_text(metrics.max_abs_diff),
        "max rel diff": number_text(metrics.max_rel_diff),
        "mean abs diff": number_text(metrics.mean_abs_diff),
        "p99 abs diff": number_text(metrics.p99_abs_diff),
        "cosine": MISSING if metrics.cosine is None else f"{metrics.cosine:.6f}",
        "SNR": _snr_text(metrics),
        "top-1": MISSING if metrics.top1_agreement is None else f"{metrics.top1_agreement:.1%}",
        "top-5": MISSING if metrics.top5_agreement is None else f"{metrics.top5_agreement:.1%}",
    }
    return {name: text for name, text in texts.items() if text != MISSING}


def version_text(result: TargetResult) -> str:
    """Write the opset or the version of the file format; empty where there is neither."""
    if result.opset_version is not None:
        return f"opset {result.opset_version}"
    return f"version {result.format_version}" if result.format_version else ""


def reason_text(result: TargetResult) -> str:
    """Say why a target is not verified; empty when it is."""
    if result.status is Status.VERIFIED:
        return ""
    if result.error is not None:
        return one_line(f"{result.error.step}: {result.error.message}")
    numbers = result.verification.reason if result.verification is not None else ""
    return one_line("; ".join(filter(None, (numbers, result.evaluation_reason))))


def tag_line(result: TargetResult) -> str:
    """Write a target's tag: `verified · opset 20 · 44.7 MB · max abs diff 2.4e-07` or `failed · Where: Why`."""
    parts = [str(result.status)]
    if result.status is not Status.FAILED:
        if version := version_text(result):
            parts.append(version)
        if result.size_bytes is not None:
            parts.append(size_text(result.size_bytes))
        if result.verification is not None and result.verification.metrics.max_abs_diff is not None:
            parts.append(f"max abs diff {number_text(result.verification.metrics.max_abs_diff)}")
    if result.verification is not None and result.verification.by != "runtime":
        parts.append(f"by {result.verification.by}")
    if reason := reason_text(result):
        parts.append(reason)
    return shortened(" · ".join(parts), _LONGEST_TAG)


def verdict_sentence(report: ExportReport) -> str:
    """Sum a report up in one sentence."""
    if report.error is not None:
        return one_line(f"The export failed. {report.error.step}: {report.error.message}")
    counts = Counter(result.status for result in report.targets)
    total = len(report.targets)
    verified = counts.pop(Status.VERIFIED, 0)
    if total == 0:
        return "No target was asked for."
    if verified == total:
        return "The target is verified." if total == 1 else f"All {total} targets are verified."
    others = ", ".join(f"{counts[status]} {status}" for status in VERDICTS if counts[status])
    return f"{verified} of {total} targets verified, {others}."


def evidence_text(evidence: str) -> str:
    """Say in words where the inputs of a verification came from."""
    return _EVIDENCE.get(evidence, evidence)


def time_text(moment: str) -> str:
    """Write an ISO 8601 time in UTC for people: `2026-11-20 20:00:00 UTC`."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if parsed.tzinfo else moment


def approval_text(approval: Approval | None) -> str:
    """Say who let a version through a gate, and without what; empty where nobody had to."""
    if approval is None:
        return ""
    kind, _, value = approval.promotion.partition(":")
    goal = f"the alias {value}" if kind == "alias" else value
    lacking = " and ".join(f"a verified {variant}" for variant in approval.lacking)
    who, when = approval.by or "unknown (MLflow did not say who)", time_text(approval.at)
    return f"Let through to {goal} without {lacking}: approved {when} by {who}: {approval.reason}"


def is_usable(result: TargetResult) -> bool:
    """Whether `load` and `pull` hand a target out."""
    return result.status in (Status.VERIFIED, Status.UNVERIFIED) and result.sha256 is not None


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " ".join(text.split())


def escaped(text: str) -> str:
    """Keep text, put on one line, from being read as Markdown or HTML.

    MLflow's reader knows no backslash before `>`: hence entities.
    """
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(one_line(text), quote=False))


def shortened(text: str, limit: int) -> str:
    """Cut a text to a number of characters; the cut shows."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _snr_text(metrics: Metrics) -> str:
    if metrics.snr_db is not None:
        return f"{metrics.snr_db:.0f} dB"
    return "exact" if metrics.max_abs_diff == 0 else MISSING
