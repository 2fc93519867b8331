"""Put an export's results where people look: files first, metrics next, tags last.

A tag means that everything it speaks of is there. All of it can be done again after a failure.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from registry_export.differences import NUMBERS
from registry_export.entities import (
    ExportReport,
    Metrics,
    ModelVersionRef,
    SourceRecord,
    Status,
    TargetResult,
    worst,
)
from registry_export.errors import RegistryError, RegistryExportError
from registry_export.manifest import OWN_FILES, Manifest, write_manifest
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG
from registry_export.page import (
    ERROR_TAG,
    RUN_TAG,
    TAG_PREFIX,
    describe,
    has_failed,
    read_report,
    speaks_of_another,
    upload_reports,
)
from registry_export.registry import EXPORTS_FOLDER, Registry, VersionInfo
from registry_export.report import tag_line
from registry_export.scratch import Scratch

_LARGEST_METRIC = 1e300

_log = logging.getLogger(__name__)


def publish(
    registry: Registry,
    report: ExportReport,
    artifacts: Mapping[str, Path],
    stored: Collection[str] = (),
    previous: ExportReport | None = None,
) -> ExportReport:
    """Publish an export.

    Args:
        registry: Where to.
        report: The results of this export alone.
        artifacts: Folder of each variant that has files, as `write_artifact` left it. A verified
            variant without one is published already and stays as it is. Files of those that failed are left out.
        stored: Variants of these whose model files are stored already, with `withdraw` called before.
        previous: What the version's report says now; None: it is read.

    Returns:
        The report as published: with the version's other variants, their common status, and the run.

    Raises:
        RegistryExportError: The registry or its artifact store refused, or did not answer. The tags then
            promise nothing that is not there; publishing again sets it right.
    """
    ref = report.model_version
    info = registry.version(ref)
    previous = previous or read_report(registry, ref)
    merged = merge(previous, report)
    failed = {result.variant for result in report.targets if result.status is Status.FAILED}
    files = {variant: folder for variant, folder in artifacts.items() if variant not in failed}
    if info.tags.get(STATUS_TAG) != Status.RUNNING:
        registry.set_tags(ref, {STATUS_TAG: Status.RUNNING})
    withdraw(registry, previous, info, frozenset(files).difference(stored))
    run_id = registry.create_export_run(ref, report.trigger)
    try:
        merged = replace(merged, run_id=run_id)
        for variant, folder in files.items():
            if variant not in stored:
                registry.upload(ref, folder, f"{EXPORTS_FOLDER}/{variant}")
        _upload_beside(registry, ref, {variant: files[variant] for variant in files if variant in stored})
        with ThreadPoolExecutor(1) as beside:
            reports = beside.submit(upload_reports, registry, merged)
            registry.log_metrics(run_id, ref, _metrics(report.targets, report.source))
            reports.result()
        registry.finish_run(run_id, "FINISHED")
    except BaseException:
        with contextlib.suppress(RegistryExportError):
            registry.finish_run(run_id, "FAILED")
        raise
    _tag(registry, merged, describe(registry, merged))
    return merged


def publish_verdicts(
    registry: Registry,
    report: ExportReport,
    results: Mapping[str, TargetResult],
    manifests: Mapping[str, Manifest],
    write: Callable[[Path, Manifest], None] = write_manifest,
) -> ExportReport:
    """Publish what a new verification of stored exports came to; their files stay as they are.

    What an export under way or a failed one says on the version's page is left for it to say.

    Args:
        registry: Where to.
        report: All that the version has, with the new verdicts in it.
        results: Those of it that are new, by variant.
        manifests: The new manifests of exports that are whole, by variant.
        write: Writes one of them into a folder, with all that follows from it.

    Returns:
        The report as published.

    Raises:
        RegistryExportError: The registry or its artifact store refused, or did not answer.
    """
    ref = report.model_version
    with Scratch() as folder:
        for variant, manifest in manifests.items():
            path = folder / variant
            path.mkdir()
            write(path, manifest)
            registry.upload(ref, path, f"{EXPORTS_FOLDER}/{variant}")
    measured = tuple(result for result in results.values() if result.status is not Status.FAILED)
    run_id = _log_again(registry, report, _metrics(measured, report.source))
    tags = registry.version(ref).tags
    report = replace(report, run_id=run_id)
    if not has_failed(tags):
        report = replace(report, error=None)  # of an export that came to nothing, and of which the tags say no more
    upload_reports(registry, replace(report, status=Status.FAILED) if report.error is not None else report)
    if speaks_of_another(tags):
        report = replace(report, status=Status(tags[STATUS_TAG]))
    else:
        describe(registry, report)
    registry.set_tags(ref, {f"{TAG_PREFIX}{variant}": tag_line(result) for variant, result in results.items()})
    registry.set_tags(ref, {RUN_TAG: report.run_id})
    if not speaks_of_another(tags):
        registry.set_tags(ref, {STATUS_TAG: report.status})
    return report


def _log_again(registry: Registry, report: ExportReport, metrics: Mapping[str, float]) -> str:
    """Log new metrics beside the old ones, on the export's own run; on a new one where that is gone."""
    ref = report.model_version
    if report.run_id:
        try:
            registry.log_metrics(report.run_id, ref, metrics)
            return report.run_id
        except RegistryError as error:
            if error.transient:
                raise
            _log.info("%s: the export run %s takes no metrics any more: %s", ref, report.run_id, error)
    run_id = registry.create_export_run(ref, report.trigger)
    registry.log_metrics(run_id, ref, metrics)
    registry.finish_run(run_id, "FINISHED")
    return run_id


def merge(previous: ExportReport | None, report: ExportReport) -> ExportReport:
    """Add the variants that a version has to those of a new report; of each, the newest counts."""
    if previous is None:
        return report
    results = {result.variant: result for result in (*previous.targets, *report.targets)}
    status = worst(tuple(result.status for result in results.values() if result.required))
    return replace(
        report,
        targets=tuple(results.values()),
        status=Status.FAILED if report.error is not None else status,
        source=_merged_source(previous.source, report.source),
        compared_with=report.compared_with or previous.compared_with,
        approval=report.approval or previous.approval,
    )


def _merged_source(previous: SourceRecord | None, source: SourceRecord | None) -> SourceRecord | None:
    """Keep what was learnt of the same checkpoint when this export had no need to run it."""
    if source is None or (previous is not None and previous.sha256 == source.sha256 and not source.evidence):
        return previous
    return source


def withdraw(
    registry: Registry, previous: ExportReport | None, info: VersionInfo, variants: frozenset[str]
) -> ExportReport | None:
    """Take the promises back that do not hold while files are replaced: the tags, and the report's entries.

    Args:
        registry: Where they stand.
        previous: The report that the version has.
        info: The version, with its tags.
        variants: Whose files are about to be replaced.

    Returns:
        The report that the version has now.
    """
    tags = (f"{TAG_PREFIX}{variant}" for variant in sorted(variants))
    registry.delete_tags(info.ref, tuple(tag for tag in tags if tag in info.tags))
    if previous is None or not variants.intersection(result.variant for result in previous.targets):
        return previous
    kept = tuple(result for result in previous.targets if result.variant not in variants)
    left = replace(previous, model_version=info.ref, targets=kept)
    upload_reports(registry, left)
    for variant in sorted(variants):
        with contextlib.suppress(RegistryError):  # stores may refuse to delete; a file of the same name is replaced
            registry.delete_artifacts(info.ref, f"{EXPORTS_FOLDER}/{variant}")
    return left


def _upload_beside(registry: Registry, ref: ModelVersionRef, folders: Mapping[str, Path]) -> None:
    """Store what stands beside model files that are stored already, of all variants at once."""
    if not folders:
        return
    with Scratch() as tree:
        for variant, folder in folders.items():
            (tree / variant).mkdir()
            for name in filter(lambda name: (folder / name).is_file(), OWN_FILES):
                shutil.copyfile(folder / name, tree / variant / name)
        registry.upload(ref, tree, EXPORTS_FOLDER)


def _metrics(results: tuple[TargetResult, ...], source: SourceRecord | None) -> dict[str, float]:
    metrics = {f"source/{name}": value for name, value in source.evaluation.items()} if source is not None else {}
    for result in results:
        verification = result.verification
        measured = verification.metrics if verification is not None else Metrics()
        values: dict[str, float | None] = {
            "size_bytes": result.size_bytes,
            "opset_version": result.opset_version,
            "format_version": _number(result.format_version),
            **{name: getattr(measured, name) for name in NUMBERS},
            "latency_p90_ms": verification.latency_p90_ms if verification is not None else None,
            "latency_ms": verification.latency_ms if verification is not None else None,
            "convert_seconds": result.convert_seconds,
            "sparsity": result.sparsity,
            **result.evaluation,
        }
        for name, value in values.items():
            if value is not None and abs(value) < math.inf:  # compares whole numbers that no float can hold, too
                metrics[f"{result.variant}/{name}"] = float(max(-_LARGEST_METRIC, min(value, _LARGEST_METRIC)))
    return metrics


def _number(version: str | None) -> float | None:
    """A metric is a number; a version of several parts (8.20 is not 8.2) is in the report alone."""
    return float(version) if version is not None and version.isdecimal() else None


def _tag(registry: Registry, report: ExportReport, tags: Mapping[str, str]) -> None:
    """Set the tags, status last; each costs a call, and those that say so already need none."""
    ref = report.model_version
    wanted = {f"{TAG_PREFIX}{result.variant}": tag_line(result) for result in report.targets}
    wanted |= {TRIGGER_TAG: report.trigger, RUN_TAG: report.run_id}
    registry.set_tags(ref, {name: value for name, value in wanted.items() if tags.get(name) != value})
    if ERROR_TAG in tags:
        registry.delete_tags(ref, (ERROR_TAG,))
    registry.set_tags(ref, {STATUS_TAG: report.status})
