"""What a version's page says of its exports: tags, report and description; and that an export has failed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from registry_export.bench import now
from registry_export.entities import ErrorRecord, ExportReport, ModelVersionRef, Status
from registry_export.errors import ArtifactError, RegistryExportError, to_record
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG
from registry_export.parsing import read_bounded
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.report import description_block, from_json, text_around, to_html, to_json, to_markdown, with_block
from registry_export.scratch import Scratch

TAG_PREFIX = "registry_export."
RUN_TAG = f"{TAG_PREFIX}run_id"
ERROR_TAG = f"{TAG_PREFIX}error"

LONGEST_DESCRIPTION = 5000
"""Characters that MLflow's tables hold; PostgreSQL refuses more."""

_LONGEST_ERROR = 2000
_REPORT = f"{EXPORTS_FOLDER}/report.json"

_log = logging.getLogger(__name__)


def read_report(registry: Registry, ref: ModelVersionRef) -> ExportReport | None:
    """Read the report that a version has, or None; a damaged one counts as none, with a warning."""
    with Scratch() as folder:
        try:
            path = registry.download_artifact(ref, _REPORT, folder)
        except ArtifactError:
            return None
        try:
            return from_json(read_bounded(path))
        except (ArtifactError, ValueError) as error:
            _log.warning("%s: %s", ref, error)
            return None


def upload_reports(registry: Registry, report: ExportReport) -> None:
    """Store a report as HTML, Markdown and JSON; what was there is replaced."""
    with Scratch() as folder:
        (folder / "report.html").write_text(to_html(report), encoding="utf-8")
        (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
        (folder / "report.json").write_text(to_json(report), encoding="utf-8")
        registry.upload(report.model_version, folder, EXPORTS_FOLDER)


def describe(registry: Registry, report: ExportReport, *, linked: bool = True) -> Mapping[str, str]:
    """Write the block of the description, with links to what is stored, and return the tags that the version has."""
    ref = report.model_version
    place = registry.location(ref)
    info = registry.version(ref)  # read late: a person may have written meanwhile
    before = info.description
    link = place.ui_link if linked else lambda _: None
    block = description_block(report, link, LONGEST_DESCRIPTION - text_around(before))
    description = with_block(before, block)
    if description != before:
        registry.set_description(ref, description)
    return info.tags


def speaks_of_another(tags: Mapping[str, str]) -> bool:
    """Whether the status speaks of an export that waits, runs, or failed as a whole."""
    return tags.get(STATUS_TAG) in (Status.QUEUED, Status.RUNNING) or has_failed(tags)


def has_failed(tags: Mapping[str, str]) -> bool:
    """Whether a version's tags say that an export failed as a whole."""
    return tags.get(STATUS_TAG) == Status.FAILED and ERROR_TAG in tags


def publish_failure(registry: Registry, ref: ModelVersionRef, trigger: str, error: BaseException) -> None:
    """Say on a version's page why a whole export failed, and in the report that it has; its exports stay as they are.

    Args:
        registry: Where to.
        ref: The version.
        trigger: What asked for the export.
        error: Why it failed.
    """
    record = to_record(error)
    text = " ".join(f"{record.step}: {record.message}".split())
    if len(text) > _LONGEST_ERROR:
        text = text[: _LONGEST_ERROR - 1] + "…"
    with contextlib.suppress(RegistryExportError):  # the tags matter more, and say the same
        _report_failure(registry, ref, trigger, record)
    registry.set_tags(ref, {TRIGGER_TAG: trigger, ERROR_TAG: text, STATUS_TAG: Status.FAILED})


def _report_failure(registry: Registry, ref: ModelVersionRef, trigger: str, record: ErrorRecord) -> None:
    """Put a failure into the version's report, which would go on to say `verified`; where there is none, none is made.

    What failed may be that nothing can be stored beside the checkpoint.
    """
    known = read_report(registry, ref)
    failed = replace(
        known or ExportReport(ref, trigger, None, (), Status.FAILED),
        model_version=ref,
        trigger=trigger,
        status=Status.FAILED,
        error=record,
    )
    describe(registry, failed, linked=known is not None)
    if known is not None and failed != known:
        upload_reports(registry, replace(failed, created_at=now()))
