"""The stored exports of a version against its source again, with today's runtimes; nothing is converted.

The second spine. Read it top to bottom: digests first, then the source's answers, then those of every stored
file as `load` would open it, then the new verdicts in the old ones' place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry_export.admission import Admission
from registry_export.bench import Bench, now, run_pruned, run_reference, verify_artifact
from registry_export.checkpoint import read_checkpoint
from registry_export.costs import Expectations, StepCosts
from registry_export.diagnosis import DIAGNOSING, Diagnosis
from registry_export.discovery import missing_requirements
from registry_export.entities import (
    ExportReport,
    ModelVersionRef,
    Status,
    Target,
    TargetResult,
    Tolerance,
    Verification,
    worst,
)
from registry_export.errors import (
    ENDS_THE_EXPORT,
    ArtifactError,
    RegistryExportError,
    VerificationError,
    to_record,
)
from registry_export.evaluation_setup import NO_EVALUATION, EvaluationSetup
from registry_export.export import learnt
from registry_export.exports import fetch
from registry_export.findings import proven, shown_dimensions
from registry_export.format import Format, Pruning, pruning_of
from registry_export.inference import Origin
from registry_export.inputs import first_inputs
from registry_export.ledger import KnownExports
from registry_export.manifest import MANIFEST, Manifest, Signer, manifest_digest, versions_of, write_manifest
from registry_export.model_setup import NO_SETUP, ModelSetup
from registry_export.page import read_report
from registry_export.pools import Pool
from registry_export.publishing import publish_verdicts
from registry_export.reference import Reference
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.reporter import SILENT, Reporter
from registry_export.scoring import Scoring, score_exports
from registry_export.scratch import Scratch
from registry_export.signing import is_vouched_for
from registry_export.timing import time_exports
from registry_export.vouching import forget, known_exports, remember

_CHECK = "check files"
_ONE_HOP = 2
"""The formats of a path without anything in between."""


def reverify_model_version(
    ref: ModelVersionRef,
    *,
    registry: Registry,
    formats: Mapping[str, Format],
    pool: Pool,
    variants: Sequence[str] = (),
    samples: str | None = None,
    tolerance: Tolerance | None = None,
    setup: ModelSetup = NO_SETUP,
    evaluation: EvaluationSetup = NO_EVALUATION,
    latency: bool = True,
    index: KnownExports | None = None,
    costs: StepCosts | None = None,
    signer: Signer | None = None,
    reporter: Reporter = SILENT,
) -> ExportReport:
    """Check the stored exports of a version against its source again, without converting.

    A file that was changed or is gone makes its variant `failed`. What cannot run on this machine keeps the verdict
    that it earned elsewhere.

    Args:
        ref: The version.
        registry: Where its exports are, and the new verdicts go.
        formats: Every installed format, by name.
        pool: Runs the children.
        variants: Which exports; none named: all that are stored.
        samples: Path of an `.npz` file or an artifact URI with inputs to verify with.
        tolerance: In place of the precision's default.
        setup: How the checkpoint becomes the model that was exported.
        evaluation: How good the source and its exports are, and what these may lose.
        latency: Whether the source and the exports are timed.
        index: What the ledger knows of verified exports.
        costs: What is remembered of the steps of all exports; None: nothing.
        signer: Signs anew what it has signed or the ledger vouches for; None: nobody does.
        reporter: Hears of every step.

    Returns:
        The report as it is published now.

    Raises:
        ArtifactError: The version has no exports, or not the one that is named.
        RegistryExportError: The source cannot be run, or the registry refused. What is published then stays as it
            is, but for exports that are found torn.
    """
    with Scratch() as work:
        queue = Admission(pool.cores, pool.available_bytes)
        bench = Bench(formats, pool, work, tolerance, reporter, latency=latency, queue=queue)
        job = _Job(ref, registry, tuple(variants), samples, setup, evaluation, index, costs, signer)
        report = _published(job)
        intact, results = _check_files(job, bench, _chosen(job, report))
        try:
            report, judged = _judge(job, bench, report, intact) if intact else (report, {})
        except ENDS_THE_EXPORT:
            raise
        except RegistryExportError:
            if results:
                _publish(job, bench, report, results, intact)
            raise
        return _publish(job, bench, report, {**results, **judged}, intact)


@dataclass(frozen=True)
class _Job:
    ref: ModelVersionRef
    registry: Registry
    variants: tuple[str, ...]
    samples: str | None
    setup: ModelSetup
    evaluation: EvaluationSetup
    index: KnownExports | None
    costs: StepCosts | None
    signer: Signer | None


@dataclass(frozen=True)
class _Stored:
    """An export whose files are those that were verified."""

    result: TargetResult
    folder: Path
    manifest: Manifest
    signer: Signer | None

    @property
    def origin(self) -> Origin:
        """How it is loaded: as `load` does it."""
        return Origin(self.result.format, str(self.folder / self.manifest.filename), self.manifest.interface)

    @property
    def precision(self) -> str:
        """By which it is judged; of exports that are older than this record, the file's own."""
        return self.result.precision or self.manifest.precision


def _published(job: _Job) -> ExportReport:
    report = read_report(job.registry, job.ref)
    has = [result.variant for result in report.targets] if report is not None else []
    absent = [variant for variant in job.variants if variant not in has]
    if report is None or absent:
        lacks = ", ".join(map(repr, absent))
        raise ArtifactError(
            f"{job.ref} has no export {lacks} (it has: {', '.join(has) or 'none'})." if lacks else "It has no exports.",
            remedy=f"Run `registry-export export {job.ref.uri}`.",
        )
    # Versions that share a logged model share the report: it may have been written for another one.
    return replace(report, model_version=job.ref)


def _chosen(job: _Job, report: ExportReport) -> list[TargetResult]:
    """Choose the exports that have files; what no converter could make has none."""
    stored = set(job.registry.list_artifacts(job.ref, EXPORTS_FOLDER))
    return [
        result
        for result in report.targets
        if (not job.variants or result.variant in job.variants)
        and (result.status is not Status.FAILED or f"{EXPORTS_FOLDER}/{result.variant}/{MANIFEST}" in stored)
    ]


def _check_files(
    job: _Job, bench: Bench, chosen: Sequence[TargetResult]
) -> tuple[dict[str, _Stored], dict[str, TargetResult]]:
    """Fetch the exports: those whose digests hold, and the results of those whose files are torn or changed."""
    intact: dict[str, _Stored] = {}
    torn: dict[str, TargetResult] = {}
    for result in chosen:
        try:
            with bench.step(_CHECK, result.variant):
                folder, manifest = fetch(job.registry, job.ref, result, bench.work)
                signer = _signer(job, bench, folder, manifest)
            intact[result.variant] = _Stored(result, folder, manifest, signer)
        except ArtifactError as error:
            torn[result.variant] = _failed(result, error, "Artifact")
    return intact, torn


def _signer(job: _Job, bench: Bench, folder: Path, manifest: Manifest) -> Signer | None:
    if job.signer is None or is_vouched_for(job.signer, job.index, job.ref, folder, manifest):
        return job.signer
    bench.reporter.note(
        f"{manifest.variant} is not signed: neither a signature nor the ledger vouches for its files. "
        "Export it with --force to have it signed."
    )
    return None


def _failed(result: TargetResult, error: RegistryExportError, step: str) -> TargetResult:
    reason = str(error)
    before = result.verification or Verification(Status.FAILED)
    verification = replace(before, status=Status.FAILED, reason=reason, verified_at=now(), absent=False)
    return replace(result, status=Status.FAILED, error=to_record(error, step), verification=verification)


def _judge(
    job: _Job, bench: Bench, report: ExportReport, intact: Mapping[str, _Stored]
) -> tuple[ExportReport, dict[str, TargetResult]]:
    """Run the source, then every intact export; returns the report with what is known of the source now."""
    with bench.step("download"):
        model = job.registry.download(job.ref, bench.work / "source")
        checkpoint = read_checkpoint(model, bench.formats, job.setup)
    bench = replace(bench, expected=Expectations(checkpoint.record.checkpoint_bytes, job.costs))
    inputs = first_inputs(job.registry, job.samples, checkpoint, bench.work, job.evaluation.labels)
    targets = [_target(stored.result) for stored in intact.values()]
    reference = run_reference(bench, checkpoint.origin, inputs.sample, inputs.evidence, targets)
    pruned = run_pruned(bench, checkpoint.origin, inputs.sample, inputs.evidence, targets)
    children = bench.children("diagnose", "", DIAGNOSING)
    answers: dict[Pruning | None, Reference | RegistryExportError] = {None: reference}
    diagnoses = {
        pruning: own
        if isinstance(own, RegistryExportError)
        else Diagnosis(bench.formats, children, checkpoint.origin.pruned(pruning), own, bench.work / f"diagnosis-{n}")
        for n, (pruning, own) in enumerate((answers | pruned).items())
    }
    judged = {
        variant: _judge_one(bench, stored, diagnoses[pruning_of(stored.result.options)], checkpoint.format)
        for variant, stored in intact.items()
    }
    fresh = {v: (result, intact[v].origin) for v, result in judged.items() if result is not intact[v].result}
    taken, timed = time_exports(bench, checkpoint.origin, reference, fresh)
    scoring = Scoring.of(job.evaluation, checkpoint, inputs)
    scores = score_exports(bench, scoring, {v: (timed[v], intact[v].origin) for v in timed}, reference.stand_in)
    source = scoring.recorded(learnt(checkpoint.record, reference, taken), scores)
    return replace(report, source=source), dict(scores.results)


def _target(result: TargetResult) -> Target:
    return Target(result.format, result.options, result.variant, result.required)


def _judge_one(
    bench: Bench, stored: _Stored, diagnosis: Diagnosis | RegistryExportError, source: Format
) -> TargetResult:
    if isinstance(diagnosis, RegistryExportError):
        return _failed(stored.result, diagnosis, "Verify")
    result, reference = stored.result, diagnosis.reference
    work = bench.work / f"verify-{result.variant}"
    work.mkdir()
    try:
        with bench.step("verify", result.variant) as end:
            verification = proven(_verification(bench, stored, reference, work), result)
            if len(result.path) <= _ONE_HOP:  # of longer paths what was made on the way is not stored
                verification = diagnosis.explained(verification, [stored.origin], stored.precision)
            end.outcome = verification.status
    except ENDS_THE_EXPORT:
        raise
    except RegistryExportError as error:
        return _failed(result, error, "Verify")
    if verification.absent and _has_verdict(result):
        bench.reporter.note(f"{result.variant} stays {result.status}: {verification.reason}")
        return result
    tools = versions_of([source, *filter(None, [bench.formats.get(result.format)])])
    failed = verification.status is Status.FAILED
    return replace(
        result,
        status=verification.status,
        verification=replace(verification, tools=tools),
        dynamic_dimensions=shown_dimensions(stored.manifest.interface, reference, verification),
        reused=False,
        key=_key(verification, result),
        notes=tuple(dict.fromkeys((*result.notes, *(n for n in verification.notes if n not in reference.notes)))),
        error=to_record(VerificationError(verification.reason)) if failed else None,
    )


def _verification(bench: Bench, stored: _Stored, reference: Reference, work: Path) -> Verification:
    absent = _absent(bench, stored.result.format)
    if absent:
        return Verification(
            Status.UNVERIFIED, evidence=reference.evidence, reason=absent, absent=True, verified_at=now()
        )
    return verify_artifact(bench, stored.result.variant, stored.origin, stored.precision, reference, work)


def _absent(bench: Bench, name: str) -> str:
    """Say what is not installed here of an export's format; empty where all of it is."""
    format_ = bench.formats.get(name)
    if format_ is None:
        return f"the format {name} is not installed here."
    missing = missing_requirements(format_.requirements)
    return f"{name} needs packages that are not installed here: {', '.join(missing)}." if missing else ""


def _has_verdict(result: TargetResult) -> bool:
    """Say whether an export was run before, here or elsewhere."""
    return result.status is not Status.FAILED and result.verification is not None and not result.verification.absent


def _publish(
    job: _Job,
    bench: Bench,
    report: ExportReport,
    results: Mapping[str, TargetResult],
    intact: Mapping[str, _Stored],
) -> ExportReport:
    targets = tuple(results.get(result.variant, result) for result in report.targets)
    status = worst(tuple(result.status for result in targets if result.required))
    manifests = {
        variant: replace(
            stored.manifest,
            status=results[variant].status,
            verification=results[variant].verification,
            dynamic_dimensions=results[variant].dynamic_dimensions,
            key=results[variant].key,
            evaluation=results[variant].evaluation,
            evaluation_key=results[variant].evaluation_key,
            evaluation_reason=results[variant].evaluation_reason,
        )
        for variant, stored in intact.items()
        if variant in results
    }
    # What could not run here keeps a verdict that the store alone tells of: it is neither vouched for nor disowned.
    judged = [v for v in results if v not in intact or results[v] is not intact[v].result]
    forget(job.index, job.ref, judged, standing=[v for v in judged if results[v].status is Status.VERIFIED])

    def write(folder: Path, manifest: Manifest) -> None:
        write_manifest(folder, manifest)
        if (signer := intact[manifest.variant].signer) is not None:
            signer.sign(folder, manifest)

    report = replace(report, targets=targets, status=status)
    with bench.step("publish"):
        report = publish_verdicts(job.registry, report, results, manifests, write)
    vouched = {variant: manifest_digest(manifests[variant]) for variant in judged if variant in manifests}
    remember(job.index, report, known_exports(report, manifests.values()), vouched)
    return report


def _key(verification: Verification, before: TargetResult) -> str:
    """Return the key that a verdict stands for: none where a rule has changed, and the terms are others."""
    was = before.verification
    same = was is not None and (verification.tolerance, verification.evidence) == (was.tolerance, was.evidence)
    return before.key if same else ""
