"""The spine: one model version in, verified and published exports out. Read it top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry_export.admission import Admission
from registry_export.bench import Bench, now, run_pruned, run_reference
from registry_export.checkpoint import Checkpoint, read_checkpoint
from registry_export.costs import Expectations, StepCosts
from registry_export.entities import (
    Approval,
    ExportReport,
    Interface,
    Latency,
    ModelVersionRef,
    SourceRecord,
    Target,
    TargetResult,
    Tolerance,
    worst,
)
from registry_export.errors import ArtifactError, ExportCancelledError, RegistryExportError
from registry_export.evaluation_setup import NO_EVALUATION, EvaluationSetup
from registry_export.exports import fetch
from registry_export.format import Format
from registry_export.graph import ExportPlan, PlannedTarget, plan_export
from registry_export.inference import Origin
from registry_export.inputs import FirstInputs, first_inputs
from registry_export.keys import key_of
from registry_export.ledger import KnownExports
from registry_export.manifest import (
    Signer,
    manifest_digest,
    tool_versions,
    write_artifact,
)
from registry_export.model_setup import NO_SETUP, ModelSetup
from registry_export.page import publish_failure
from registry_export.pools import Pool
from registry_export.publishing import publish
from registry_export.reference import Reference
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.regressions import compared_with, read_earlier
from registry_export.report import draw_ahead, prepare_report
from registry_export.reporter import SILENT, Reporter
from registry_export.reuse import Kept, Own, Shelf
from registry_export.scoring import Scoring, score_exports
from registry_export.scratch import Scratch
from registry_export.starts import EarlyStarts
from registry_export.targets import export_targets, toolchains_of
from registry_export.timing import time_exports
from registry_export.uploads import EarlyUploads
from registry_export.vouching import forget, known_exports, remember


def export_model_version(
    ref: ModelVersionRef,
    *,
    targets: Sequence[Target],
    trigger: str,
    registry: Registry,
    formats: Mapping[str, Format],
    pool: Pool,
    samples: str | None = None,
    tolerance: Tolerance | None = None,
    setup: ModelSetup = NO_SETUP,
    runtimes: Mapping[str, str] | None = None,
    evaluation: EvaluationSetup = NO_EVALUATION,
    force: bool = False,
    latency: bool = True,
    costs: StepCosts | None = None,
    earlier: ModelVersionRef | None = None,
    approval: Approval | None = None,
    index: KnownExports | None = None,
    signer: Signer | None = None,
    reporter: Reporter = SILENT,
) -> ExportReport:
    """Export a model version into every target, verify each one, and publish what came out.

    One failed target leaves its siblings alive; it is in the report. What was verified before, for this version or
    for another one with the same content, and depends on nothing that has changed, is kept.

    Args:
        ref: What to export.
        targets: Into what.
        trigger: What asked for it (`stage:Staging`, `manual`, ...).
        registry: Where the version is read and the results are published.
        formats: Every installed format, by name.
        pool: Runs the children.
        samples: Path of an `.npz` file or an artifact URI with inputs to verify with.
        tolerance: In place of the precision's default.
        setup: How the checkpoint becomes the model to export.
        runtimes: Runtime -> the oldest version of it that is to read the exports; notes say which exports it cannot.
        evaluation: How good the source and its exports are, and what these may lose.
        force: Convert and verify anew even what is verified already.
        latency: Whether the source and the exports are timed.
        costs: What is remembered of the steps of all exports; None: nothing.
        earlier: The version that was exported before for the same stage or alias, to compare with.
        approval: Who let its promotion through a gate, for the report.
        index: Where exports of other versions are found; None: only this version's own are kept.
        signer: Signs every export; None: nobody does.
        reporter: Hears of every step.

    Returns:
        The published report: the newest result of every variant that the version has.

    Raises:
        RegistryExportError: The whole job failed. Unless that may pass by itself, the version's tags say so.
    """
    try:
        with Scratch() as work:
            queue = Admission(pool.cores, pool.available_bytes)
            bench = Bench(
                formats, pool, work, tolerance, reporter, latency=latency, queue=queue, runtimes=runtimes or {}
            )
            wanted = ref, targets, trigger, registry, samples, setup, evaluation, force
            job = _Job(*wanted, earlier, approval, index, costs, signer)
            return _export(job, bench)
    except RegistryExportError as error:
        if not error.transient and not isinstance(error, ExportCancelledError):
            with contextlib.suppress(RegistryExportError):
                publish_failure(registry, ref, trigger, error)
        raise


@dataclass(frozen=True)
class _Job:
    ref: ModelVersionRef
    targets: Sequence[Target]
    trigger: str
    registry: Registry
    samples: str | None
    setup: ModelSetup
    evaluation: EvaluationSetup
    force: bool
    earlier: ModelVersionRef | None
    approval: Approval | None
    index: KnownExports | None
    costs: StepCosts | None
    signer: Signer | None


def _export(job: _Job, bench: Bench) -> ExportReport:
    shelf = Shelf(job.registry, job.ref, job.index, bench.work / "kept", bench.reporter, job.signer)
    with bench.step("download"), ThreadPoolExecutor(2) as beside:
        earlier = beside.submit(read_earlier, job.registry, job.earlier)
        own = None
        if not job.force:
            job.registry.location(job.ref)  # once for both
            own = beside.submit(shelf.read_own)
        model = job.registry.download(job.ref, bench.work / "source")
        checkpoint = read_checkpoint(model, bench.formats, job.setup)
    bench = replace(bench, expected=Expectations(checkpoint.record.checkpoint_bytes, job.costs))
    inputs = first_inputs(job.registry, job.samples, checkpoint, bench.work, job.evaluation.labels)
    plan = plan_export(checkpoint.format, job.targets, bench.formats, samples=bool(inputs.sample))
    keys = {p.target.variant: key_of(bench, checkpoint, plan, p, inputs.sample) for p in plan.targets}
    scoring = Scoring.of(job.evaluation, checkpoint, inputs)
    kept = _kept(shelf, keys, own.result(), scoring) if own is not None else Kept()
    results, folders = dict(kept.results), dict(kept.folders)
    missing = [planned for planned in plan.targets if planned.target.variant not in results]
    fresh = _Fresh(kept.known_source(checkpoint.record))
    if missing:
        fresh = _make(job, bench, checkpoint, plan, missing, inputs)
        folders |= fresh.folders
        results |= {variant: replace(result, key=keys[variant]) for variant, result in fresh.results.items()}
    source = fresh.source
    if missing or source.evaluation_key != scoring.key or scoring.stale(results):
        asked = {v: results[v] for v in folders if v in fresh.folders or v in scoring.stale(results)}
        exports = {v: (result, _origin(bench, result, folders[v])) for v, result in asked.items()}
        scores = score_exports(bench, scoring, exports, fresh.stand_in)
        results |= scores.results
        source = scoring.recorded(source, scores)
    report = ExportReport(
        model_version=job.ref,
        trigger=job.trigger,
        source=source,
        targets=tuple(replace(results[p.target.variant], required=p.target.required) for p in plan.targets),
        status=worst(tuple(results[p.target.variant].status for p in plan.targets if p.target.required)),
        created_at=now(),
        tools=tool_versions(),
        approval=job.approval,
    )
    report = replace(report, compared_with=compared_with(report, job.earlier, earlier.result()))
    manifests = [write_artifact(f, report, results[v], checkpoint.files, job.signer) for v, f in folders.items()]
    forget(job.index, job.ref, set(folders).difference(fresh.stored))
    with bench.step("publish"):
        for variant, folder in kept.signed.items():
            job.registry.upload(job.ref, folder, f"{EXPORTS_FOLDER}/{variant}")
        report = publish(job.registry, report, folders, fresh.stored, None if missing else kept.report)
    standing = [known for known in kept.known if known.variant not in folders]
    vouched = {known.variant: known.manifest_sha256 for known in standing}
    vouched |= {manifest.variant: manifest_digest(manifest) for manifest in manifests}
    remember(job.index, report, (*standing, *known_exports(report, manifests)), vouched)
    return report


@dataclass(frozen=True)
class _Fresh:
    """What was made anew, the variants whose files are stored already, and what is known of the source."""

    source: SourceRecord
    results: Mapping[str, TargetResult] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    stored: Collection[str] = ()
    stand_in: str = ""


def _make(
    job: _Job,
    bench: Bench,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    missing: Sequence[PlannedTarget],
    inputs: FirstInputs,
) -> _Fresh:
    """Convert, verify, store and time what is missing."""
    uploading = EarlyUploads(bench, job.registry, job.ref, lambda variant: forget(job.index, job.ref, [variant]))
    starting = EarlyStarts(bench.starts, toolchains_of(bench, plan, missing))
    with starting as starts, uploading as uploads, ThreadPoolExecutor(1, "draw") as drawing:

        def judged(result: TargetResult, folder: Path | None) -> None:
            uploads.begin(result, folder)
            drawing.submit(draw_ahead, result)

        drawing.submit(prepare_report)
        reference = run_reference(bench, checkpoint.origin, inputs.sample, inputs.evidence, job.targets)
        asked = [planned.target for planned in missing if planned.routes]
        pruned = run_pruned(bench, checkpoint.origin, inputs.sample, inputs.evidence, asked)
        starts.enough()
        made = export_targets(bench, checkpoint.origin, plan, missing, reference, judged, pruned)
        stored = uploads.settle()  # all of it: nothing else is done beside a timed call
    folders = {variant: folder for variant, (_, folder) in made.items() if folder is not None}
    exports = {v: (made[v][0], _origin(bench, made[v][0], folder)) for v, folder in folders.items()}
    latency, timed = time_exports(bench, checkpoint.origin, reference, exports)
    results = {variant: timed.get(variant, result) for variant, (result, _) in made.items()}
    return _Fresh(learnt(checkpoint.record, reference, latency), results, folders, stored, reference.stand_in)


def learnt(source: SourceRecord, reference: Reference, latency: Latency | None) -> SourceRecord:
    """Add to a checkpoint's record what running it has shown."""
    return replace(
        source,
        interface=reference.interface,
        evidence=reference.evidence,
        notes=(*source.notes, *reference.notes),
        noise=reference.noise,
        sandbox=reference.sandbox,
        latency=latency,
    )


def _origin(bench: Bench, result: TargetResult, folder: Path) -> Origin:
    """How the files of a variant are loaded."""
    interface = result.description.interface if result.description is not None else Interface(())
    return Origin(result.format, str(folder / bench.formats[result.format].filename), interface)


def _kept(shelf: Shelf, keys: Mapping[str, str], own: Own, scoring: Scoring) -> Kept:
    """Find what was verified before and depends on nothing that has changed since."""
    kept = shelf.look_up(keys, own)
    kept = _with_files(shelf, kept, scoring.stale(kept.results))
    for variant, result in kept.results.items():
        is_taken = variant in kept.folders and result.taken_from is not None
        taken = f"taken over from {result.taken_from}" if is_taken else ""
        shelf.reporter.step_finished("look up", variant, taken or f"{result.status} before, unchanged", 0.0)
    return kept


def _with_files(shelf: Shelf, kept: Kept, variants: Collection[str]) -> Kept:
    """Fetch the files of exports that are to be run once more; they are stored again, with their new account.

    What the ledger does not vouch for is made anew instead: once stored again, others could take it over.
    """
    results, folders = dict(kept.results), dict(kept.folders)
    vouched = {known.variant for known in kept.known}
    for variant in sorted(set(variants) - set(folders)):
        result = results.pop(variant)
        if variant not in vouched:
            continue
        try:
            folders[variant], _ = fetch(shelf.registry, shelf.ref, result, shelf.work / "again")
        except ArtifactError as error:
            shelf.reporter.note(f"{variant} of {shelf.ref} is not used again: {error}")
            continue
        results[variant] = result
    return replace(kept, results=results, folders=folders)
