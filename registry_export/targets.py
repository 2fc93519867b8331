"""From reference outputs to results: every target's routes tried, each artifact verified.

The middle of the spine, which knows no registry: a checkpoint on disk comes in, results and folders of
files go out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from registry_export.bench import Bench, Pruned, now, verify_artifact
from registry_export.children import PlacedChildren
from registry_export.diagnosis import DIAGNOSING, Diagnosis
from registry_export.entities import (
    VERDICTS,
    Attempt,
    Status,
    TargetResult,
    Verification,
)
from registry_export.errors import ENDS_THE_EXPORT, RegistryExportError, VerificationError, to_record
from registry_export.findings import (
    calibration_notes,
    one_sided,
    precision_of,
    proven,
    runtime_notes,
    shown_dimensions,
    static_notes,
    way,
)
from registry_export.format import Pruning, Toolchain
from registry_export.graph import ExportPlan, PlannedTarget, Step, needed_toolchains
from registry_export.inference import Origin
from registry_export.manifest import combined_digest, file_records
from registry_export.reference import Reference
from registry_export.schedule import Schedule
from registry_export.steps import PlanRun, StepResult

_NONE_PRUNED: Pruned = MappingProxyType({})

Made = tuple[TargetResult, Path | None]
"""A target's result, and the folder of its files where there are any."""


def export_targets(
    bench: Bench,
    source: Origin,
    plan: ExportPlan,
    planned: Sequence[PlannedTarget],
    reference: Reference,
    judged: Callable[[TargetResult, Path | None], None] | None = None,
    pruned: Pruned = _NONE_PRUNED,
) -> dict[str, Made]:
    """Export targets side by side; a failed one leaves its siblings alive.

    Args:
        bench: What to work with.
        source: The checkpoint.
        plan: The steps.
        planned: Those of its targets that are to be made.
        reference: The source's answers.
        judged: Told of every target as soon as there is a verdict on it, in the target's own thread.
        pruned: The answers of the source with weights made zero, for those targets that ask for that.

    Returns:
        By variant: the result, and the folder of its files.

    Raises:
        ExportCancelledError: A person stopped it.
        DiskFullError: No target can be made on this machine now.
    """
    makers = _Makers.of(bench, source, plan, reference, judged, pruned)
    # A thread for each target costs nothing: it waits in the queue, or for a step that another one runs.
    with ThreadPoolExecutor(max_workers=max(len(planned), 1)) as executor:
        ordered = makers.schedule.longest_first(list(planned))
        futures = {one.target.variant: executor.submit(makers.make, one) for one in ordered}
        try:
            return {one.target.variant: futures[one.target.variant].result() for one in planned}
        except BaseException:
            bench.pool.cancel()  # so that the threads end now: a Ctrl-C must not wait for a converter
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def toolchains_of(bench: Bench, plan: ExportPlan, planned: Sequence[PlannedTarget]) -> tuple[Toolchain, ...]:
    """Return what makes and verifies targets on their first routes, the longest path's first, but not the source's."""
    ordered = Schedule(plan, bench.formats, bench.expected).longest_first(list(planned))
    return needed_toolchains(plan, ordered, bench.formats)[1:]


@dataclass(frozen=True)
class _Makers:
    """What the threads of all targets share."""

    bench: Bench
    run: PlanRun
    schedule: Schedule
    reference: Reference
    pruned: Pruned
    judged: Callable[[TargetResult, Path | None], None] | None

    @classmethod
    def of(
        cls,
        bench: Bench,
        source: Origin,
        plan: ExportPlan,
        reference: Reference,
        judged: Callable[[TargetResult, Path | None], None] | None,
        pruned: Pruned,
    ) -> _Makers:
        schedule = Schedule(plan, bench.formats, bench.expected)

        def children(step: Step) -> PlacedChildren:
            made = step.id.rpartition("/")[2]
            work, seconds = schedule.work(step), schedule.seconds_from(step)
            return bench.children("convert", made, work, seconds, schedule.effort(step))

        folder = bench.work / "steps"
        folder.mkdir()
        run = PlanRun(
            plan=plan,
            formats=bench.formats,
            children=children,
            source=source,
            interface=reference.interface,
            samples=reference.trace,
            folder=folder,
            optional=reference.optional,
            calibration=reference.calibration,
        )
        return cls(bench, run, schedule, reference, pruned, judged)

    @cached_property
    def _diagnoses(self) -> Mapping[Pruning | None, Diagnosis]:
        looking = self.bench.children("diagnose", "", DIAGNOSING)
        whole: dict[Pruning | None, Reference] = {None: self.reference}
        whole |= {pruning: own for pruning, own in self.pruned.items() if isinstance(own, Reference)}
        return {
            pruning: Diagnosis(
                self.bench.formats,
                looking,
                reference.origin or self.run.source.pruned(pruning),
                reference,
                self.bench.work / "-".join(filter(None, ("diagnosis", str(pruning or "")))),
            )
            for pruning, reference in whole.items()
        }

    def _reference(self, route: str) -> Reference:
        """Return the answers of what a route starts from.

        Raises:
            RegistryExportError: There are none.
        """
        pruning = self.run.plan.steps[route].pruning
        found = self.pruned[pruning] if pruning is not None else self.reference
        if isinstance(found, RegistryExportError):
            raise found
        return found

    def make(self, planned: PlannedTarget) -> Made:
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
            self.schedule.follow(target.variant, route)
            made = self._tried(route, blank)
            good = made[0].status in (Status.VERIFIED, Status.UNVERIFIED)
            problem = "" if good else _problem(made[0])
            repeated = problem and any(attempt.error == problem for attempt in attempts)
            told, at = "the same" if repeated else problem, self.run.failed(route)
            attempts.append(Attempt(" → ".join(self.run.plan.steps[route].path), told, at))
            if best is None or _rank(made) < _rank(best):
                best, taken = made, route
            if good:
                break
        result, folder = best or (blank, None)
        if result.status is Status.MISMATCH and self.bench.explain:
            result = self._explained(taken, result)
        worth_it = len(attempts) > 1 or any(attempt.error for attempt in attempts)
        result = replace(result, attempts=(*(attempts if worth_it else ()), *result.attempts))
        if self.judged is not None:
            self.judged(result, folder)
        return result, folder

    def _tried(self, route: str, blank: TargetResult) -> Made:
        try:
            reference = self._reference(route)
        except RegistryExportError as error:
            return replace(blank, error=to_record(error), path=self.run.plan.steps[route].path), None
        result, folder = _try_route(self.bench, self.run, route, blank, reference)
        if reference is self.reference:
            return result, folder
        told = (note for note in reference.notes if note not in (*self.reference.notes, *result.notes))
        return replace(result, sparsity=reference.sparsity, notes=(*told, *result.notes)), folder

    def _explained(self, route: str, result: TargetResult) -> TargetResult:
        """Say of a mismatch where it goes wrong."""
        step = self.run.result(route)
        if result.verification is None:
            return result
        artifacts = [made.origin for made in way(self.run, step)][::-1]
        with self.bench.step("diagnose", result.variant):
            precision = precision_of(self.run, step)
            diagnosis = self._diagnoses[step.step.pruning]
            verification = diagnosis.explained(result.verification, artifacts, precision)
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
        with bench.step("convert", variant) as end:
            step = run.result(route)
            end.seconds = step.seconds  # its own, whoever ran it, and without what it is made from
            result = replace(_described(blank, step), precision=precision_of(run, step), one_sided=one_sided(run, step))
    except ENDS_THE_EXPORT:
        raise
    except RegistryExportError as error:
        return replace(blank, error=to_record(error), path=path), None
    try:
        with bench.step("verify", variant) as end:
            verification = proven(_verify(bench, run, route, variant, step, reference), result)
            end.outcome = verification.status
    except ENDS_THE_EXPORT:
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
            *static_notes(step, reference),
            *runtime_notes(bench, step),
            *calibration_notes(bench, run, step, reference),
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


def _verify(
    bench: Bench, run: PlanRun, route: str, variant: str, step: StepResult, reference: Reference
) -> Verification:
    work = run.folder / f"verify-{list(run.plan.steps).index(route)}"
    work.mkdir()
    return verify_artifact(bench, variant, step.origin, precision_of(run, step), reference, work)
