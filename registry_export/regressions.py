"""What the version that was exported before for the same stage or alias had come to, to be shown beside this one.

It is told and never judged: a version that is worse than the one before is no mismatch with its own source.
"""

from __future__ import annotations

import logging

from registry_export.entities import ComparedWith, EarlierExport, ExportReport, ModelVersionRef, Status, TargetResult
from registry_export.errors import RegistryError
from registry_export.page import read_report
from registry_export.registry import Registry

_log = logging.getLogger(__name__)


def read_earlier(registry: Registry, earlier: ModelVersionRef | None) -> ExportReport | None:
    """Read the report of the version that was exported before; None where there is none, or it cannot be read.

    Args:
        registry: Where the version is.
        earlier: Which; None: there was none, or it is not known.
    """
    if earlier is None:
        return None
    try:
        return read_report(registry, earlier)
    except RegistryError as error:
        _log.info("Nothing is compared with %s: %s", earlier, error)
        return None


def compared_with(
    report: ExportReport, earlier: ModelVersionRef | None, before: ExportReport | None
) -> ComparedWith | None:
    """Say what an earlier version's exports had come to, of those variants that a report has too.

    Args:
        report: The new one.
        earlier: The version that was exported before.
        before: Its report, as `read_earlier` found it.

    Returns:
        None where nothing is left of it, or where it is the same checkpoint.
    """
    if earlier is None or before is None or _digest(before) == _digest(report) or _makers(before) & _makers(report):
        return None
    variants = {result.variant for result in report.targets}
    targets = tuple(
        _earlier(result)
        for result in before.targets
        if result.variant in variants and result.status is not Status.FAILED
    )
    return ComparedWith(earlier, report.trigger, targets) if targets else None


def _digest(report: ExportReport) -> str | None:
    return report.source.sha256 if report.source is not None else None


def _makers(report: ExportReport) -> set[tuple[str, ModelVersionRef]]:
    """Say for which version each export was made: what two versions share has the same content."""
    return {(result.variant, result.taken_from or report.model_version) for result in report.targets}


def _earlier(result: TargetResult) -> EarlierExport:
    verification = result.verification
    return EarlierExport(
        variant=result.variant,
        status=result.status,
        snr_db=verification.metrics.snr_db if verification is not None else None,
        max_abs_diff=verification.metrics.max_abs_diff if verification is not None else None,
        size_bytes=result.size_bytes,
        latency_ms=verification.latency_ms if verification is not None else None,
    )
