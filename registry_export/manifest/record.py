"""`manifest.json`: made, written, read, and checked against the files beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from registry_export.discovery import discover_formats, format_named
from registry_export.entities import (
    Attempt,
    Description,
    ExportReport,
    FileRecord,
    Interface,
    ModelVersionRef,
    OptionValue,
    SourceRecord,
    Status,
    TargetResult,
    TensorSpec,
    Verification,
)
from registry_export.errors import ArtifactError
from registry_export.manifest.bundle import SIGNATURE
from registry_export.manifest.files import combined_digest, file_records, sha256_of
from registry_export.manifest.provenance import reproduce_command
from registry_export.manifest.statement import STATEMENT, contradicts, statement_of
from registry_export.parsing import read_bounded

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
BESIDE = ("MLmodel", "python_env.yaml", "requirements.txt")
"""What MLflow reads of an artifact."""
OWN_FILES = frozenset({MANIFEST, STATEMENT, SIGNATURE, *BESIDE})
"""What is written beside the model files; never part of an artifact's digest or size."""


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`.

    Attributes:
        schema_version: Of this record.
        filename: The deployable file or folder, relative to the manifest.
        files: Every model file, sorted by path.
        sha256: Digest of `files`, as `combined_digest` computes it.
        size_bytes: Sum over `files`.
        inputs: As the file declares them, under the source's names; a dynamic dimension stands as its name.
        outputs: Likewise.
        dynamic_dimensions: Input name -> axis -> name, of those shown to vary.
        path: The chain of formats that led here.
        tools: Versions of the packages used, by name.
        judged_as: The coarsest precision on the way to the file, by which it is judged.
        command: Makes the artifact again.
        key: Digest of everything that the artifact depends on.
        exported_at: When, in UTC, ISO 8601.
        taken_from: The version that it was made for, where that is another one with the same content.
        beside: What is written beside the model files, for MLflow.
        one_sided: Why agreeing inputs do not make it verified; empty where they do.
        sparsity: As in `TargetResult`.
        evaluation: How good it is, by metric.
        evaluation_key: As in `TargetResult`.
        evaluation_reason: As in `TargetResult`.
    """

    schema_version: int
    model_version: ModelVersionRef
    variant: str
    format: str
    options: Mapping[str, OptionValue]
    filename: str
    status: Status
    files: tuple[FileRecord, ...]
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    dynamic_dimensions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    opset_version: int | None = None
    opset_imports: Mapping[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    format_version: str | None = None
    precision: str = "fp32"
    judged_as: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    verification: Verification | None = None
    source: SourceRecord | None = None
    path: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    convert_seconds: float | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    key: str = ""
    exported_at: str = ""
    taken_from: ModelVersionRef | None = None
    beside: tuple[FileRecord, ...] = ()
    one_sided: str = ""
    sparsity: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation_key: str = ""
    evaluation_reason: str = ""

    @property
    def interface(self) -> Interface:
        """Inputs and outputs together."""
        return Interface(self.inputs, self.outputs)


def make_manifest(folder: Path, report: ExportReport, result: TargetResult) -> Manifest:
    """Describe the model files in a folder.

    Args:
        folder: Holds the model files, and perhaps files of an earlier `write_artifact`.
        report: The export that made them.
        result: Which of the report's targets they are.

    Raises:
        ArtifactError: The format's file is not there.
    """
    filename = format_named(discover_formats(), result.format).filename
    if not (folder / filename).exists():
        raise ArtifactError(f"{result.variant} has no {filename}.")
    files = file_records(folder, exclude=OWN_FILES)
    description = result.description or Description(Interface(()))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model_version=report.model_version,
        variant=result.variant,
        format=result.format,
        options=result.options,
        filename=filename,
        status=result.status,
        files=files,
        sha256=combined_digest(files),
        size_bytes=sum(record.size_bytes for record in files),
        inputs=description.interface.inputs,
        outputs=description.interface.outputs,
        dynamic_dimensions=result.dynamic_dimensions,
        opset_version=result.opset_version,
        opset_imports=description.opset_imports,
        ir_version=description.ir_version,
        format_version=result.format_version,
        precision=description.precision,
        judged_as=result.precision,
        details=description.details,
        verification=result.verification,
        source=report.source,
        path=result.path,
        attempts=result.attempts,
        notes=result.notes,
        convert_seconds=result.convert_seconds,
        tools=report.tools,
        command=reproduce_command(report.model_version, result.format, result.options),
        key=result.key,
        exported_at=result.exported_at or report.created_at,
        taken_from=result.taken_from,
        one_sided=result.one_sided,
        sparsity=result.sparsity,
        evaluation=result.evaluation,
        evaluation_key=result.evaluation_key,
        evaluation_reason=result.evaluation_reason,
    )


def result_of(manifest: Manifest) -> TargetResult:
    """Return what a manifest says of its export as an entry of a report, where it stands reused."""
    return TargetResult(
        variant=manifest.variant,
        format=manifest.format,
        options=manifest.options,
        status=manifest.status,
        opset_version=manifest.opset_version,
        format_version=manifest.format_version,
        size_bytes=manifest.size_bytes,
        sha256=manifest.sha256,
        dynamic_dimensions=manifest.dynamic_dimensions,
        verification=manifest.verification,
        path=manifest.path,
        attempts=manifest.attempts,
        notes=manifest.notes,
        convert_seconds=manifest.convert_seconds,
        description=Description(
            interface=manifest.interface,
            opset_version=manifest.opset_version,
            opset_imports=manifest.opset_imports,
            ir_version=manifest.ir_version,
            format_version=manifest.format_version,
            precision=manifest.precision,
            details=manifest.details,
        ),
        key=manifest.key,
        reused=True,
        exported_at=manifest.exported_at,
        precision=manifest.judged_as,
        taken_from=manifest.taken_from,
        one_sided=manifest.one_sided,
        sparsity=manifest.sparsity,
        evaluation=manifest.evaluation,
        evaluation_key=manifest.evaluation_key,
        evaluation_reason=manifest.evaluation_reason,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, and the statement that follows from it."""
    (folder / MANIFEST).write_bytes(_text(manifest))
    write_statement(folder, manifest)


def write_statement(folder: Path, manifest: Manifest) -> None:
    """Write the statement that follows from the `manifest.json` of a folder."""
    (folder / STATEMENT).write_bytes(statement_of(manifest, sha256_of(folder / MANIFEST), MANIFEST))


def manifest_digest(manifest: Manifest) -> str:
    """Return the SHA-256, in hex, of `manifest.json` as it is written."""
    return hashlib.sha256(_text(manifest)).hexdigest()


def _text(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        ArtifactError: It is missing, damaged, of a newer schema, or names files outside the folder.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(read_bounded(path), type=Manifest)
    except OSError as error:
        raise ArtifactError(f"{folder.name} has no {MANIFEST}.", remedy="Export it again.") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST} of {folder.name} is damaged: {error}.", remedy="Export it again.") from error
    if manifest.schema_version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{MANIFEST} of {folder.name} has schema {manifest.schema_version}, and {SCHEMA_VERSION} is the newest "
            "known here.",
            remedy="Upgrade registry-export.",
        )
    for name in (manifest.filename, *(record.path for record in (*manifest.files, *manifest.beside))):
        if not _is_inside(name):
            raise ArtifactError(f"{MANIFEST} of {folder.name} names {name!r}, which is not inside its folder.")
    return manifest


def verify_files(folder: Path, manifest: Manifest | None = None) -> Manifest:
    """Check the files of a folder against its manifest.

    Args:
        folder: Holds `manifest.json` and the model files.
        manifest: The manifest, where it has been read already.

    Returns:
        The manifest.

    Raises:
        ArtifactError: A file is missing or changed, or is a link; names it. Files that the manifest does
            not name are left out of account: an artifact store may keep those of an earlier export.
    """
    manifest = manifest or read_manifest(folder)
    remedy = "The export is torn or was changed; export it again."
    for record in (*manifest.files, *manifest.beside):
        path = folder / record.path
        if not _is_file_in(folder, path):
            raise ArtifactError(f"{manifest.variant}: {record.path} is missing.", remedy=remedy)
        if path.stat().st_size != record.size_bytes or sha256_of(path) != record.sha256:
            raise ArtifactError(f"{manifest.variant}: {record.path} is not the file that was verified.", remedy=remedy)
    stated = folder / STATEMENT
    if stated.is_file():  # exports of earlier releases have none
        own = statement_of(manifest, sha256_of(folder / MANIFEST), MANIFEST)
        if contradicts(stated.read_bytes(), own):
            raise ArtifactError(f"{manifest.variant}: {MANIFEST} or {STATEMENT} was changed.", remedy=remedy)
    if combined_digest(manifest.files) != manifest.sha256:
        raise ArtifactError(f"{manifest.variant}: the digest in {MANIFEST} is not that of its files.", remedy=remedy)
    return manifest


def _is_file_in(folder: Path, path: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except OSError:  # a name longer than any file's
        return False


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\\" not in name and "\0" not in name
