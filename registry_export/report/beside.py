"""An export beside its source and beside the version before it, in sentences."""

from __future__ import annotations

import math

from registry_export.entities import ComparedWith, EarlierExport, Latency, SourceRecord, TargetResult, Verification

_SAME_SPEED = 1.05
_SAME_SPEED_ON_ANOTHER_DAY = 1.2
"""Two exports are timed on different days, perhaps on different machines."""
_SAME_SIZE = 0.005
_SAME_NOISE_DB = 1.0
_ROUNDING_DB = 100.0
"""Above this an output is exact but for float32's rounding, and a difference in it says nothing."""
_SAME_DIFFERENCE = 2.0


def latency_text(verification: Verification | None) -> str:
    """Write how long one call takes: `0.42 ms (p90 0.51 ms, 500 calls, 2 threads busy)`; empty where not known."""
    if verification is None or verification.latency_ms is None:
        return ""
    median, p90 = verification.latency_ms, verification.latency_p90_ms
    return _call_text(Latency(median, p90, verification.latency_runs, verification.threads))


def source_latency_text(source: SourceRecord | None) -> str:
    """Write the same of a source."""
    return _call_text(source.latency) if source is not None and source.latency is not None else ""


def against_source(result: TargetResult, source: SourceRecord | None) -> str:
    """Compare with the source: `2.1 times faster than the source, 74 % smaller`; empty where nothing is known."""
    verification = result.verification
    parts = []
    if verification is not None and verification.latency_ms and verification.source_latency_ms:
        parts.append(_speed(verification.source_latency_ms / verification.latency_ms, _SAME_SPEED) or "as fast")
    before = (source.checkpoint_bytes or source.size_bytes) if source is not None else 0
    if result.size_bytes is not None and before:
        parts.append(_size(result.size_bytes / before) or "of the same size")
    if not parts:
        return ""
    first = f"{parts[0]} {'as' if parts[0] in ('as fast', 'of the same size') else 'than'} the source"
    return ", ".join([first, *parts[1:]])


def evaluation_text(result: TargetResult, source: SourceRecord | None) -> str:
    """Write how good it is: `accuracy 0.961 (the source 0.967, at most 0.01 less is allowed)`; else nothing."""
    return ", ".join(_metric_text(name, value, source) for name, value in result.evaluation.items())


def _metric_text(name: str, value: float, source: SourceRecord | None) -> str:
    before = source.evaluation.get(name) if source is not None else None
    if source is None or before is None:
        return f"{name} {value:.4g}"
    limit = source.max_drop.get(name)
    allowed = "" if limit is None else f", at most {abs(limit):g} {'less' if limit >= 0 else 'more'} is allowed"
    return f"{name} {value:.4g} (the source {before:.4g}{allowed})"


def against_earlier(result: TargetResult, compared: ComparedWith | None) -> str:
    """Compare with the version before: `6 dB worse and 14 % larger than version 7`; empty without such an export."""
    earlier = {export.variant: export for export in compared.targets} if compared is not None else {}
    before = earlier.get(result.variant)
    if before is None or compared is None:
        return ""
    version = f"version {compared.model_version.version}"
    parts = [part for part in (_noise(result, before), _growth(result, before), _pace(result, before)) if part]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    sentence = f"{listed} than {version}" if parts else f"no worse, no larger and no slower than {version}"
    return sentence if result.status is before.status else f"{sentence}, which was {before.status}"


def _call_text(latency: Latency) -> str:
    facts = [f"{latency.runs} calls"] if latency.runs else []
    if latency.p90_ms is not None:
        facts.insert(0, f"p90 {latency.p90_ms:.3g} ms")
    if latency.threads is not None:
        facts.append(f"{latency.threads} thread{'s' if latency.threads > 1 else ''} busy")
    return f"{latency.median_ms:.3g} ms" + (f" ({', '.join(facts)})" if facts else "")


def _speed(faster: float, same: float) -> str:
    if 1 / same < faster < same:
        return ""
    return f"{faster:.2g} times faster" if faster >= 1 else f"{1 / faster:.2g} times slower"


def _size(ratio: float) -> str:
    if abs(ratio - 1) < _SAME_SIZE:
        return ""
    if ratio >= 2:
        return f"{ratio:.2g} times larger"
    return f"{abs(ratio - 1):.0%} {'larger' if ratio > 1 else 'smaller'}".replace("%", " %")


def _noise(result: TargetResult, before: EarlierExport) -> str:
    metrics = result.verification.metrics if result.verification is not None else None
    if metrics is None or metrics.max_abs_diff is None or before.max_abs_diff is None:
        return ""
    now, then = (_decibels(m.snr_db, m.max_abs_diff) for m in (metrics, before))
    if now is not None and then is not None:
        if min(now, then) >= _ROUNDING_DB or abs(now - then) < _SAME_NOISE_DB:
            return ""
        if math.isinf(now) or math.isinf(then):
            return "no longer exact, so worse" if math.isinf(then) else "exact, so better"
        return f"{abs(now - then):.0f} dB {'worse' if now < then else 'better'}"
    if not before.max_abs_diff or not metrics.max_abs_diff:
        return ""
    ratio = metrics.max_abs_diff / before.max_abs_diff
    return f"{ratio:.2g} times further off" if ratio >= _SAME_DIFFERENCE else ""


def _decibels(snr_db: float | None, max_abs_diff: float | None) -> float | None:
    return math.inf if snr_db is None and max_abs_diff == 0 else snr_db


def _growth(result: TargetResult, before: EarlierExport) -> str:
    return _size(result.size_bytes / before.size_bytes) if result.size_bytes and before.size_bytes else ""


def _pace(result: TargetResult, before: EarlierExport) -> str:
    now = result.verification.latency_ms if result.verification is not None else None
    return _speed(before.latency_ms / now, _SAME_SPEED_ON_ANOTHER_DAY) if now and before.latency_ms else ""
