"""The verdict on one artifact: the source's outputs against the artifact's own, rung by rung.

A verdict is earned. A missing output, another shape or dtype, a NaN, a crashed child and zero samples
are never a pass; what cannot run on this machine is `unverified`, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from registry_export.comparison import Comparison, compare_all, is_finite, named
from registry_export.differences import Sums, finite
from registry_export.distributions import Distributions
from registry_export.entities import Rung, Status, Tolerance, Verification, worst
from registry_export.errors import RuntimeAbsentError
from registry_export.format import Tensors, Toolchain
from registry_export.inference import DRAWN, EDGE, EXAMPLE, Origin, RungFiles
from registry_export.isolation import check_within
from registry_export.pools import Children
from registry_export.reference import Reference
from registry_export.replay import Replay, ReplayedRung, ReplayRequest
from registry_export.tensors import read_tensors
from registry_export.tolerances import DEFAULT_TOLERANCES

FINEST = "fp32"

_SKIPPED = "not run: "


def verify(
    pool: Children,
    toolchain: Toolchain,
    artifact: Origin,
    source: Reference,
    tolerance: Tolerance,
    work: Path,
    precision: str = FINEST,
) -> Verification:
    """Load an artifact back from its files in a child, run it, and judge what it says.

    Args:
        pool: Runs the child.
        toolchain: The format's own.
        artifact: The exported files.
        source: The reference outputs.
        tolerance: Judges them.
        work: An empty folder for the child.
        precision: The artifact's: inputs beyond the samples' range judge the finest only.

    Raises:
        VerificationError: The artifact cannot be loaded.
        ChildError: The child crashed, hung or ran out of memory.
    """
    request = ReplayRequest(artifact, source.rungs, str(work))
    try:
        outcome = pool.call(
            toolchain,
            "registry_export.replay:replay",
            msgspec.to_builtins(request),
            work,
            reads=(*artifact.reads, *(Path(rung.inputs) for rung in source.rungs)),
        )
    except RuntimeAbsentError as error:
        return Verification(
            Status.UNVERIFIED, evidence=source.evidence, tolerance=tolerance, reason=str(error), absent=True
        )
    replayed = outcome.of(Replay)
    check_within((rung.actual for rung in replayed.rungs), (work,))
    return judge(source, replayed, tolerance, precision)


def judge(source: Reference, replay: Replay, tolerance: Tolerance, precision: str = FINEST) -> Verification:
    """Compare every rung that ran and sum up.

    The verdict is the worst over the rungs that were run and count, and `unverified` when there was none, or
    when the source does not agree with itself and the artifact could at least be run. Agreement with something
    that answers in the source's place shows nothing of the source.
    """
    total, distributions = Sums(), Distributions()
    rungs = []
    for files, replayed in zip(source.rungs, replay.rungs, strict=True):
        seen = _Seen()
        rung = _judge_rung(files, replayed, tolerance, seen)
        judged = _counts(files, replayed, precision) and not (files.unfit and rung.status is not Status.MISMATCH)
        rungs.append(replace(rung, judged=judged, noise=files.noise))
        if judged and files.kind != EDGE:  # what is far larger than the samples would hide what they show
            total.add(seen.sums)
            distributions.add(seen.compared, seen.expected, seen.actual)
    ran = [rung for rung in rungs if rung.judged and not rung.reason.startswith(_SKIPPED)]
    status = worst(tuple(rung.status for rung in ran))
    reason = _reason(ran, status)
    unstable = source.unstable or (source.noisy if tolerance.default else "")
    if unstable and status is not Status.FAILED:
        status, reason = Status.UNVERIFIED, unstable
    elif source.stand_in and status is Status.VERIFIED:
        status, reason = Status.UNVERIFIED, source.stand_in
    return Verification(
        status=status,
        by=replay.by,
        evidence=source.evidence,
        tolerance=tolerance,
        default_tolerance=None if tolerance.default else default_tolerance(precision),
        metrics=finite(total.metrics()),
        rungs=tuple(rungs),
        reason=reason,
        runtime=replay.runtime,
        notes=replay.notes,
        distributions=distributions.settled(),
    )


def default_tolerance(precision: str) -> Tolerance:
    """Return a precision's default; one without a default of its own is judged by the strictest."""
    return DEFAULT_TOLERANCES.get(precision, DEFAULT_TOLERANCES[FINEST])


def _counts(files: RungFiles, replayed: ReplayedRung, precision: str) -> bool:
    """Say whether a rung counts in the verdict.

    Overflow and saturation beyond the samples' range are the nature of the reduced precisions; int8's ranges
    are those of the samples themselves, and values drawn one by one are none of them. A size at the edge that
    an export refuses in words misleads nobody; values that the source takes are not an export's to refuse.
    """
    if files.kind == EDGE and files.group and replayed.error:
        return False
    return files.kind not in (EDGE, DRAWN) or precision == FINEST or (files.kind == DRAWN and precision != "int8")


@dataclass
class _Seen:
    """What was compared on one set of inputs."""

    sums: Sums = field(default_factory=Sums)
    compared: Mapping[str, Comparison] = field(default_factory=dict)
    expected: Tensors = field(default_factory=dict)
    actual: Tensors = field(default_factory=dict)


def _judge_rung(files: RungFiles, replayed: ReplayedRung, tolerance: Tolerance, seen: _Seen) -> Rung:
    if replayed.skipped:
        return Rung(files.name, Status.UNVERIFIED, _SKIPPED + replayed.skipped)
    if not any(array.size for array in read_tensors(Path(files.inputs)).values()):
        return Rung(files.name, Status.UNVERIFIED, "the sample is empty")  # whatever a runtime makes of it
    if replayed.error:
        return Rung(files.name, Status.FAILED, replayed.error)
    expected, actual = read_tensors(Path(files.expected)), read_tensors(Path(replayed.actual))
    compared, problem = compare_all(expected, actual, tolerance, files.noise)
    for comparison in compared.values():
        seen.sums.add(comparison.sums)
    seen.sums.worst = named(seen.sums.worst, files.name)
    seen.compared, seen.expected, seen.actual = compared, expected, actual
    metrics = {name: finite(comparison.sums.metrics()) for name, comparison in compared.items()}
    if files.unfit and not (problem := _no_number(expected, actual)):
        return Rung(files.name, Status.UNVERIFIED, files.unfit, metrics)
    if problem:
        return Rung(files.name, Status.MISMATCH, problem, metrics)
    both_empty = files.kind != EXAMPLE and not any(array.size for array in expected.values())  # no box was found, say
    if not both_empty and not any(comparison.sums.elements for comparison in compared.values()):
        return Rung(files.name, Status.UNVERIFIED, "nothing finite to compare", metrics)
    return Rung(files.name, Status.VERIFIED, outputs=metrics)


def _no_number(expected: Tensors, actual: Tensors) -> str:
    """Name an output that is NaN or infinite in an export of a source that is finite all over.

    Where a source jumps, no value can be asked of its exports; but none at all is wrong on either side of a jump.
    """
    if not all(is_finite(array) for array in expected.values()):
        return ""
    return next((f"output {n} is not finite where the source is" for n, a in actual.items() if not is_finite(a)), "")


def _reason(ran: Sequence[Rung], status: Status) -> str:
    if not ran:
        return "no sample fits the exported model's shapes"
    if status is Status.VERIFIED:
        return ""
    first = next(rung for rung in ran if rung.status is status)
    return f"{first.name}: {first.reason}"


def dimensions_shown(source: Reference, verification: Verification) -> set[str]:
    """Return the dynamic dimensions that were really run at another size than the example's."""
    pairs = zip(source.rungs, verification.rungs, strict=False)  # without a runtime there are no verdicts
    return {files.group for files, rung in pairs if files.group and not rung.reason.startswith(_SKIPPED)}
