"""The verdict on one artifact: the source's outputs against the artifact's own, rung by rung.

A verdict is earned. A missing output, another shape or dtype, a NaN, a crashed child and zero samples
are never a pass; what cannot run on this machine is `unverified`, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from registry_export.comparison import Sums, compare_all, finite
from registry_export.entities import Rung, Status, Tolerance, Verification, worst
from registry_export.errors import RuntimeAbsentError
from registry_export.format import Toolchain
from registry_export.inference import Origin, RungFiles
from registry_export.isolation import ChildPool
from registry_export.reference import Reference
from registry_export.replay import Replay, ReplayedRung, ReplayRequest
from registry_export.tensors import read_tensors

DEFAULT_TOLERANCES = {
    "fp32": Tolerance(atol=1e-5, rtol=1e-3),
    "fp16": Tolerance(atol=5e-3, rtol=1e-2),
    "bf16": Tolerance(atol=4e-2, rtol=8e-2),
    "int8": Tolerance(atol=1e-2, rtol=1e-1, snr_db=15.0),
}
"""By precision, the finest first.

fp32: a thousandth of each value, and 1e-5 near zero, where relative error means nothing.

Half precision keeps 11 significant bits (fp16) or 8 (bf16), and every runtime rounds elsewhere: a few units of
its last place at the size of a layer's sums (2**-11 and 2**-8 of values around 1 to 10).

int8 has 256 steps over a tensor's whole range, so its error is a share of that range and falls on small elements
too: an output is judged whole. 15 dB is a noise of 18 % of the output's root mean square, which a working int8
model stays well below (25 to 45 dB) and one whose ranges were lost does not reach.
"""

_SKIPPED = "not run: "


def verify(
    pool: ChildPool, toolchain: Toolchain, artifact: Origin, source: Reference, tolerance: Tolerance, work: Path
) -> Verification:
    """Load an artifact back from its files in a child, run it, and judge what it says.

    Args:
        pool: Runs the child.
        toolchain: The format's own.
        artifact: The exported files.
        source: The reference outputs.
        tolerance: Judges them.
        work: An empty folder for the child.

    Raises:
        VerificationError: The artifact cannot be loaded.
        ChildError: The child crashed, hung or ran out of memory.
    """
    request = ReplayRequest(artifact, source.rungs, str(work))
    try:
        outcome = pool.call(toolchain, "registry_export.replay:replay", msgspec.to_builtins(request), work)
    except RuntimeAbsentError as error:
        return Verification(Status.UNVERIFIED, evidence=source.evidence, tolerance=tolerance, reason=str(error))
    return judge(source, msgspec.convert(outcome.value, Replay), tolerance)


def judge(source: Reference, replay: Replay, tolerance: Tolerance) -> Verification:
    """Compare every rung that ran and sum up.

    The verdict is the worst over the rungs that were run, and `unverified` when there was none, or when
    the source does not agree with itself and the artifact could at least be run. Agreement with something
    that answers in the source's place shows nothing of the source.
    """
    total = Sums()
    rungs = [_judge_rung(f, r, tolerance, total) for f, r in zip(source.rungs, replay.rungs, strict=True)]
    ran = [rung for rung in rungs if not rung.reason.startswith(_SKIPPED)]
    status = worst(tuple(rung.status for rung in ran))
    reason = _reason(ran, status)
    if source.unstable and status is not Status.FAILED:
        status, reason = Status.UNVERIFIED, source.unstable
    elif source.stand_in and status is Status.VERIFIED:
        status, reason = Status.UNVERIFIED, source.stand_in
    return Verification(
        status=status,
        evidence=source.evidence,
        tolerance=tolerance,
        metrics=finite(total.metrics()),
        rungs=tuple(rungs),
        reason=reason,
        latency_ms=replay.latency_ms,
        runtime=replay.runtime,
    )


def _judge_rung(files: RungFiles, replayed: ReplayedRung, tolerance: Tolerance, total: Sums) -> Rung:
    if replayed.skipped:
        return Rung(files.name, Status.UNVERIFIED, _SKIPPED + replayed.skipped)
    if not any(array.size for array in read_tensors(Path(files.inputs)).values()):
        return Rung(files.name, Status.UNVERIFIED, "the sample is empty")  # whatever a runtime makes of it
    if replayed.error:
        return Rung(files.name, Status.FAILED, replayed.error)
    expected, actual = read_tensors(Path(files.expected)), read_tensors(Path(replayed.actual))
    compared, problem = compare_all(expected, actual, tolerance)
    for comparison in compared.values():
        total.add(comparison.sums)
    metrics = {name: finite(comparison.sums.metrics()) for name, comparison in compared.items()}
    if problem:
        return Rung(files.name, Status.MISMATCH, problem, metrics)
    if not any(comparison.sums.elements for comparison in compared.values()):
        return Rung(files.name, Status.UNVERIFIED, "nothing finite to compare", metrics)
    return Rung(files.name, Status.VERIFIED, outputs=metrics)


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
