"""`report.json`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import msgspec

from registry_export.entities import ExportReport, TargetResult
from registry_export.errors import ArtifactError

_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+,\s+)*[-+.\deE]+)\s+\]")


def to_json(report: ExportReport) -> str:
    """Write a report as JSON, a list of numbers on one line; a number that is not finite becomes null."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def result_digest(result: TargetResult) -> str:
    """Digest what a report says of one target, in hex, but for what is asked anew of an export that is kept.

    The same before and after the report was written and read.
    """
    own = msgspec.json.encode(replace(result, required=True, reused=False))
    as_read = msgspec.json.decode(own, type=TargetResult)  # a whole number becomes a float where one is declared
    return hashlib.sha256(msgspec.json.encode(as_read)).hexdigest()


def from_json(text: str | bytes) -> ExportReport:
    """Read a report.

    Raises:
        ArtifactError: It is damaged, or of another shape.
    """
    try:
        return msgspec.json.decode(text, type=ExportReport)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"report.json is damaged: {error}.", remedy="Export the version again.") from error
