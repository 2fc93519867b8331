"""From reference outputs to results: every target's routes tried, each artifact verified.

The middle of the spine, which knows no registry: a checkpoint on disk comes in, results and folders of
files go out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from registry_export.conversion import PlanRun, StepResult
from registry_export.diagnosis import Diagnosis
from registry_export.entities import (
    VERDICTS,
    Attempt,
    Interface,
    Status,
    Target,
    TargetResult,
    Tolerance,
    Verification,
)
from registry_export.errors import ExportCancelledError, RegistryExportError, VerificationError, to_record
from registry_export.format import DYNAMIC_DIMENSIONS, FIXED_DECISION, Format
from registry_export.graph import ExportPlan, PlannedTarget
from registry_export.inference import Origin
from registry_export.isolation import ChildPool
from registry_export.manifest import combined_digest, file_records
from registry_export.reference import Reference, ReferenceRequest
from registry_export.reporter import SILENT, Reporter
from registry_export.tolerances import DEFAULT_TOLERANCES
from registry_export.variations import parts_of
from registry_export.verification import default_tolerance, dimensions_shown, verify

_WORKERS = 2

Made = tuple[TargetResult, Path | None]
"""A target's result, and the folder of its files where there are any."""


@dataclass
class StepEnd:
    """How a step ended, in a word."""

    outcome: str = "done"


@dataclass(frozen=True)
class Bench:
    """What every step of one export works with.

    Attributes:
        formats: Every installed format, by name.
        pool: Runs the children.
        work: A private folder.
        tolerance: In place of the precision's default.
        reporter: Hears of every step.
        explain: Whether the place is looked for where an export does not match.
        latency: Whether calls are timed.
    """

    formats: Mapping[str, Format]
    pool: ChildPool
    work: Path
    tolerance: Tolerance | None = None
    reporter: Reporter = SILENT
    explain: bool = True
    latency: bool = True

    @contextlib.contextmanager
    def step(self, name: str, variant: str = "") -> Iterator[StepEnd]:
        """Report a step's beginning and its end, the failed one too; what it yields may say how it ended."""
        began = time.monotonic()
        end = StepEnd()
        self.reporter.step_started(name, variant)
        try:
            yield end
        except RegistryExportError as error:
            self.reporter.step_finished(name, variant, f"failed: {error}", time.monotonic() - began)
            raise
        self.reporter.step_finished(name, variant, end.outcome, time.monotonic() - began)


def run_reference(bench: Bench, source: Origin, sample: str, evidence: str, targets: Sequence[Target]) -> Reference:
    """Run the source once, on its samples and their variations.

    Args:
        bench: What to work with.
        source: The checkpoint.
        sample: Folder of the samples, as `tensors` writes it; empty: draw from the signature.
        evidence: What the samples are: `samples`, `example` or `random`.
        targets: Tell which further dimensions to vary.

    Raises:
        RegistryExportError: The source cannot be loaded or run.
    """
    folder = bench.work / "reference"
    folder.mkdir()
    request = ReferenceRequest(source, str(folder), sample, evidence, _asked(targets))
    toolchain = bench.formats[source.format].toolchain
    with bench.step("reference"):
        outcome = bench.pool.call(
            toolchain, "registry_export.reference:reference", msgspec.to_builtins(request), folder
        )
        reference = msgspec.convert(outcome.value, Reference)
    for note in (*reference.notes, *filter(None, [reference.unstable, reference.noisy, reference.stand_in])):
        bench.reporter.note(note)
    return reference


def _asked(targets: Sequence[Target]) -> dict[str, dict[str, str]]:
    """Union of the dimensions that the targets ask to be dynamic."""
    union: dict[str, dict[str, str]] = {}
    for target in targets:
        asked = target.options.get(DYNAMIC_DIMENSIONS.name)
        if isinstance(asked, Mapping):
            for name, axes in asked.items():
                union.setdefault(name, {}).update(axes)
    return union


def export_targets(
    bench: Bench, source: Origin, plan: ExportPlan, planned: Sequence[PlannedTarget], reference: Reference
) -> dict[str, Made]:
    """Export targets side by side; a failed one leaves its siblings alive.

    Returns:
        By variant: the result, and the folder of its files.

    Raises:
        ExportCancelledError: A person stopped it.
    """
    folder = bench.work / "steps"
    folder.mkdir()
    run = PlanRun(
        plan=plan,
        formats=bench.formats,
        pool=bench.pool,
        source=source,
        interface=reference.interface,
        samples=reference.trace,
        folder=folder,
        optional=reference.optional,
        calibration=reference.calibration,
    )
    diagnosis = Diagnosis(bench.formats, bench.pool, reference.origin or source, reference, bench.work / "diagnosis")
    with ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as executor:
        futures = {
            p.target.variant: executor.submit(_export_target, bench, run, p, reference, diagnosis) for p in planned
        }
        try:
            return {variant: future.result() for variant, future in futures.items()}
        except BaseException:
            bench.pool.cancel()  # so that the threads end now: a Ctrl-C must not wait for a converter
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def _export_target(
    bench: Bench, run: PlanRun, planned: PlannedTarget, reference: Reference, diagnosis: Diagnosis
) -> Made:
    """Try a target's routes until one is verified; keep the best."""
    target = planned.target
    blank = TargetResult(
        variant=target.variant,
        format=target.format,
        options=target.options,
        status=Status.FAILED,
        required=target.required,
        error=planned.error,
        exported_at=now(),
    )
    best: Made | None = None
    taken = ""
    attempts: list[Attempt] = []
    for route in planned.routes:
        made = _try_route(bench, run, route, blank, reference)
        good = made[0].status in (Status.VERIFIED, Status.UNVERIFIED)
        problem = "" if good else _problem(made[0])
        repeated = problem and any(attempt.error == problem for attempt in attempts)
        attempts.append(Attempt(" → ".join(run.plan.steps[route].path), "the same" if repeated else problem))
        if best is None or _rank(made) < _rank(best):
            best, taken = made, route
        if good:
            break
    result, folder = best or (blank, None)
    if result.status is Status.MISMATCH and bench.explain:
        result = _explained(bench, run, taken, result, diagnosis)
    told = attempts if len(attempts) > 1 or any(attempt.error for attempt in attempts) else []
    return replace(result, attempts=(*told, *result.attempts)), folder


def _explained(bench: Bench, run: PlanRun, route: str, result: TargetResult, diagnosis: Diagnosis) -> TargetResult:
    """Say of a mismatch where it goes wrong."""
    step = run.result(route)
    way = [made.origin for made in _way(run, step)][::-1]
    if result.verification is None:
        return result
    with bench.step("diagnose", result.variant):
        verification = diagnosis.explained(result.verification, way, _precision(run, step))
    return replace(result, verification=verification)


def _rank(made: Made) -> int:
    return VERDICTS.index(made[0].status) * 2 + (made[1] is None)


def _problem(result: TargetResult) -> str:
    if result.error is not None:
        return result.error.message
    return result.verification.reason if result.verification is not None else ""


def _try_route(bench: Bench, run: PlanRun, route: str, blank: TargetResult, reference: Reference) -> Made:
    variant = blank.variant
    path = run.plan.steps[route].path
    try:
        with bench.step("convert", variant):
            step = run.result(route)
            result = replace(_described(blank, step), precision=_precision(run, step), one_sided=_one_sided(run, step))
    except ExportCancelledError:
        raise
    except RegistryExportError as error:
        return replace(blank, error=to_record(error), path=path), None
    try:
        with bench.step("verify", variant) as end:
            verification = proven(_verify(bench, run, route, step, reference), result)
            end.outcome = verification.status
    except ExportCancelledError:
        raise
    except RegistryExportError as error:
        record = to_record(error, "Verify")
        failed = Verification(Status.FAILED, evidence=reference.evidence, reason=str(error))
        return replace(result, status=Status.FAILED, error=record, verification=failed), step.folder
    return replace(
        result,
        status=verification.status,
        verification=verification,
        dynamic_dimensions=shown_dimensions(step.description.interface, reference, verification),
        notes=(
            *result.notes,
            *_static_notes(step, reference),
            *_calibration_notes(bench, run, step, reference),
            *(note for note in verification.notes if note not in reference.notes),
        ),
        error=to_record(VerificationError(verification.reason)) if verification.status is Status.FAILED else None,
    ), step.folder


def _described(blank: TargetResult, step: StepResult) -> TargetResult:
    records = file_records(step.folder)
    return replace(
        blank,
        error=None,
        opset_version=step.description.opset_version,
        format_version=step.description.format_version,
        size_bytes=sum(record.size_bytes for record in records),
        sha256=combined_digest(records),
        path=step.step.path,
        attempts=step.result.attempts,
        notes=step.result.notes,
        convert_seconds=step.seconds,
        description=step.description,
    )


def _verify(bench: Bench, run: PlanRun, route: str, step: StepResult, reference: Reference) -> Verification:
    work = run.folder / f"verify-{list(run.plan.steps).index(route)}"
    work.mkdir()
    return verify_artifact(bench, step.origin, _precision(run, step), reference, work)


def verify_artifact(bench: Bench, artifact: Origin, precision: str, reference: Reference, work: Path) -> Verification:
    """Run an artifact on the source's inputs and judge it.

    Args:
        bench: What to work with.
        artifact: The exported files.
        precision: The coarsest on the way to them.
        reference: The source's answers.
        work: An empty folder for the child.

    Raises:
        VerificationError: The artifact cannot be loaded.
        ChildError: The child crashed, hung or ran out of memory.
    """
    tolerance = bench.tolerance or default_tolerance(precision)
    toolchain = bench.formats[artifact.format].toolchain
    verification = verify(bench.pool, toolchain, artifact, reference, tolerance, work, precision)
    return replace(verification, verified_at=now())


def _way(run: PlanRun, step: StepResult) -> Iterator[StepResult]:
    """Yield a step and, one after another, those that it was made from."""
    yield step
    while step.step.parent:
        step = run.result(step.step.parent)
        yield step


def _one_sided(run: PlanRun, step: StepResult) -> str:
    """Return the note of a trace on the way that has kept one side of a decision; empty where there is none."""
    notes = (note for made in _way(run, step) for note in made.result.notes)
    return next((note for note in notes if note.startswith(FIXED_DECISION)), "")


def proven(verification: Verification, result: TargetResult) -> Verification:
    """Take the verdict back where a trace on the way kept one side of a decision: no input took the other."""
    if not result.one_sided or verification.status is not Status.VERIFIED:
        return verification
    reason = f"the inputs agree, but none of them took the other side of a decision. {result.one_sided}"
    return replace(verification, status=Status.UNVERIFIED, reason=reason)


def _precision(run: PlanRun, step: StepResult) -> str:
    """Return the coarsest precision on the way to an artifact: what was rounded once stays rounded."""
    found = [made.description.precision for made in _way(run, step)]
    known = [precision for precision in DEFAULT_TOLERANCES if precision in found]
    return known[-1] if known else found[0]


def shown_dimensions(
    interface: Interface, reference: Reference, verification: Verification
) -> dict[str, dict[str, str]]:
    """Dynamic dimensions as they really are: declared by the file, and run at another size."""
    shown = dimensions_shown(reference, verification)
    found: dict[str, dict[str, str]] = {}
    for spec in interface.inputs:
        for axis, dimension in enumerate(spec.shape or ()):
            if isinstance(dimension, str) and shown.issuperset(parts_of(dimension)):
                found.setdefault(spec.name, {})[str(axis)] = dimension
    return found


def _static_notes(step: StepResult, reference: Reference) -> tuple[str, ...]:
    """Say which dimensions the source has dynamic and the export has not."""
    wanted = {spec.name: spec.shape or () for spec in reference.interface.inputs}
    fixed = [
        f"{dimension} of {spec.name} is fixed at {own}"
        for spec in step.description.interface.inputs
        for dimension, own in zip(wanted.get(spec.name, ()), spec.shape or (), strict=False)
        if isinstance(dimension, str) and isinstance(own, int)
    ]
    return (f"Static shapes: {', '.join(fixed)}.",) if fixed else ()


_CLIPPED = "What goes beyond their range is clipped: let them look like what the model will see."


def _calibration_notes(bench: Bench, run: PlanRun, step: StepResult, reference: Reference) -> tuple[str, ...]:
    """Say that an export was judged on the inputs that its ranges were taken from."""
    for made in _way(run, step):
        edge = bench.formats[made.step.format].conversions[made.step.conversion]
        if edge.calibrates(made.step.options):
            return (f"Calibrated and verified on the same inputs ({reference.evidence}). {_CLIPPED}",)
    return ()


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
