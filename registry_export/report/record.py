"""`report.json`."""

from __future__ import annotations

import msgspec

from registry_export.entities import ExportReport
from registry_export.errors import ArtifactError


def to_json(report: ExportReport) -> str:
    """Write a report as JSON; a number that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def from_json(text: str | bytes) -> ExportReport:
    """Read a report.

    Raises:
        ArtifactError: It is damaged, or of another shape.
    """
    try:
        return msgspec.json.decode(text, type=ExportReport)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtifactError(f"report.json is damaged: {error}.", remedy="Export the version again.") from error
