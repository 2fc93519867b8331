"""What an export came to: files, errors, results, and the report that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_export.entities.models import Description, Interface, ModelVersionRef, OptionValue
from registry_export.entities.verdicts import Latency, NoiseFloor, Status, Verification


@dataclass(frozen=True)
class ErrorRecord:
    """An error as `report.json` carries it."""

    step: str
    type: str
    message: str


@dataclass(frozen=True)
class Attempt:
    """One way that was tried, in the order tried, and why it was given up (empty: it worked).

    Attributes:
        way: A route of formats (`pytorch → onnx → tflite`), or what a converter says of its own tries.
        error: Why not.
        at: The format on a route that could not be made; empty: it worked, or what it led to was not right.
    """

    way: str
    error: str = ""
    at: str = ""


@dataclass(frozen=True)
class FileRecord:
    """One deployable file: path relative to the artifact's folder, digest in hex, size in bytes."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class TargetResult:
    """What became of one target: the entry of `targets` in `report.json`.

    Attributes:
        sha256: Digest of the sorted lines `<hex>  <path>` of the model files.
        dynamic_dimensions: Input name -> axes that really are dynamic, as text -> dimension name.
        path: The chain of formats that led here (`pytorch -> onnx -> saved_model -> tflite`).
        attempts: What was tried, in order.
        notes: Sentences a reader should see (static batch and what to log instead, a fallback).
        convert_seconds: Wall time of the conversion that made the files, without shared intermediates.
        description: What the format read back from the file: interface, opset imports, precision.
        key: Digest of everything that the result depends on; the same key needs no new conversion.
        reused: Whether an earlier verified export was found and kept.
        exported_at: When, in UTC, ISO 8601.
        precision: The coarsest on the way to the file, by which it is judged.
        taken_from: The version that it was made and verified for, where that is another one with the same content.
        one_sided: Why agreeing inputs do not make it verified: a trace on the way has kept one side of a decision.
        sparsity: Of a pruned checkpoint, the share of all its parameters that are zero.
        evaluation: How good it is, by metric (`accuracy`).
        evaluation_key: Digest of everything but the export that the metrics depend on; empty: it was not evaluated.
        evaluation_reason: Why the metrics make its verdict worse than its numbers do; empty: they do not.
    """

    variant: str
    format: str
    options: Mapping[str, OptionValue]
    status: Status
    required: bool = True
    opset_version: int | None = None
    format_version: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    dynamic_dimensions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    verification: Verification | None = None
    error: ErrorRecord | None = None
    path: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()
    convert_seconds: float | None = None
    description: Description | None = None
    key: str = ""
    reused: bool = False
    exported_at: str = ""
    precision: str = ""
    one_sided: str = ""
    taken_from: ModelVersionRef | None = None
    sparsity: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation_key: str = ""
    evaluation_reason: str = ""


@dataclass(frozen=True)
class SourceRecord:
    """The checkpoint as `report.json` describes it.

    Attributes:
        format: The format that recognised it (`pytorch`, `keras`, ...).
        kind: What its loader yields (`torch_module`, `keras_model`, ...).
        flavor: The MLflow flavor it was logged with.
        sha256: Digest of the checkpoint's files, computed as for an artifact.
        size_bytes: Their total size.
        checkpoint_bytes: The size of what is loaded, without signature, example and environment files.
        latency: Of one call on the example, taken as the exports' is.
        interface: Inputs and outputs, names resolved against the model itself.
        evidence: Where the samples came from.
        notes: Sentences about the source (static batch, unstable outputs).
        noise: How far its answers are from its own, computed another way; None where it was not run.
        sandbox: The walls that stood around the processes that loaded it; empty: none, or it was not loaded.
        evaluation: As the exports'.
        evaluation_key: As the exports'.
        max_drop: By metric, how much less than the source's an export's may be: what the rule says.
    """

    format: str
    kind: str
    flavor: str = ""
    sha256: str = ""
    size_bytes: int = 0
    interface: Interface = field(default_factory=lambda: Interface(inputs=()))
    evidence: str = ""
    notes: tuple[str, ...] = ()
    noise: NoiseFloor | None = None
    checkpoint_bytes: int = 0
    latency: Latency | None = None
    sandbox: str = ""
    evaluation: Mapping[str, float] = field(default_factory=dict)
    evaluation_key: str = ""
    max_drop: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EarlierExport:
    """What an earlier version's export of the same variant had come to; numbers as in `Metrics` and `Verification`."""

    variant: str
    status: Status
    snr_db: float | None = None
    max_abs_diff: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class ComparedWith:
    """The version that was exported before for the same stage or alias.

    Attributes:
        model_version: Which.
        trigger: The stage or alias, as the new version's trigger.
        targets: Its exports, of the variants that the new version has too.
    """

    model_version: ModelVersionRef
    trigger: str
    targets: tuple[EarlierExport, ...]


@dataclass(frozen=True)
class Approval:
    """Who let a promotion through its gate without the exports that were required.

    Attributes:
        promotion: `stage:Production`, `alias:champion`.
        by: The user, as MLflow's basic-auth knew them; empty where it did not say.
        at: When the version was approved, in UTC, ISO 8601.
        reason: What the tag said.
        lacking: The exports that were not verified when it was promoted.
    """

    promotion: str
    by: str
    at: str
    reason: str
    lacking: tuple[str, ...]


@dataclass(frozen=True)
class ExportReport:
    """The result of one export: `report.json`.

    Attributes:
        model_version: What was exported.
        trigger: What asked for it (`stage:Staging`, `alias:champion`, `manual`, ...).
        source: The checkpoint; None when it could not be read.
        targets: One result for each variant, the newest of each.
        status: The worst verdict of the required targets, or `failed` when the whole job failed.
        error: Why the whole job failed.
        run_id: The export run.
        created_at: When, in UTC, ISO 8601.
        tools: Versions of the packages used, by name.
        compared_with: The version before it, to be shown beside; it changes no verdict.
        approval: Who let the version pass a gate, the last time that somebody had to.
    """

    model_version: ModelVersionRef
    trigger: str
    source: SourceRecord | None
    targets: tuple[TargetResult, ...]
    status: Status
    error: ErrorRecord | None = None
    run_id: str = ""
    created_at: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    compared_with: ComparedWith | None = None
    approval: Approval | None = None
