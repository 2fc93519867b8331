"""What is said of an export beyond its numbers: its precision, its sizes, what a trace kept, what calibrated it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from registry_export.bench import Bench
from registry_export.compatibility import needs_of, unmet
from registry_export.dimensions import parts_of
from registry_export.entities import Interface, Status, TargetResult, Verification
from registry_export.format import FIXED_DECISION
from registry_export.reference import Reference
from registry_export.steps import PlanRun, StepResult
from registry_export.tolerances import DEFAULT_TOLERANCES
from registry_export.verification import dimensions_shown


def way(run: PlanRun, step: StepResult) -> Iterator[StepResult]:
    """Yield a step and, one after another, those that it was made from."""
    yield step
    while step.step.parent:
        step = run.result(step.step.parent)
        yield step


def one_sided(run: PlanRun, step: StepResult) -> str:
    """Return the note of a trace on the way that has kept one side of a decision; empty where there is none."""
    notes = (note for made in way(run, step) for note in made.result.notes)
    return next((note for note in notes if note.startswith(FIXED_DECISION)), "")


def proven(verification: Verification, result: TargetResult) -> Verification:
    """Take the verdict back where a trace on the way kept one side of a decision: no input took the other."""
    if not result.one_sided or verification.status is not Status.VERIFIED:
        return verification
    reason = f"the inputs agree, but none of them took the other side of a decision. {result.one_sided}"
    return replace(verification, status=Status.UNVERIFIED, reason=reason)


def precision_of(run: PlanRun, step: StepResult) -> str:
    """Return the coarsest precision on the way to an artifact: what was rounded once stays rounded."""
    found = [made.description.precision for made in way(run, step)]
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


def runtime_notes(bench: Bench, step: StepResult) -> tuple[str, ...]:
    """Say which of the runtimes that are to read an export are too old for what came out."""
    if not bench.runtimes:
        return ()
    format_ = bench.formats[step.step.format]
    kind = format_.conversions[step.step.conversion].kind
    return tuple(unmet(needs_of(format_, step.step.options, kind, step.description), bench.runtimes))


def static_notes(step: StepResult, reference: Reference) -> tuple[str, ...]:
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


def calibration_notes(bench: Bench, run: PlanRun, step: StepResult, reference: Reference) -> tuple[str, ...]:
    """Say that an export was judged on the inputs that its ranges were taken from."""
    for made in way(run, step):
        edge = bench.formats[made.step.format].conversions[made.step.conversion]
        if edge.calibrates(made.step.options):
            return (f"Calibrated and verified on the same inputs ({reference.evidence}). {_CLIPPED}",)
    return ()
