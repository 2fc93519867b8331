"""What was measured of an export, and what it was judged to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """How a target, or a whole model version, stands. `worst` gives their order."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    MISMATCH = "mismatch"
    FAILED = "failed"


VERDICTS = (Status.VERIFIED, Status.UNVERIFIED, Status.MISMATCH, Status.FAILED)
"""The outcomes of a target, from best to worst."""


def worst(statuses: tuple[Status, ...]) -> Status:
    """Return the worst of several verdicts; of none, `Status.UNVERIFIED`, because nothing was shown."""
    return max(statuses, key=VERDICTS.index, default=Status.UNVERIFIED)


@dataclass(frozen=True)
class Tolerance:
    """What a difference may be: `|actual - expected| <= atol + rtol * |expected|`, element by element.

    Attributes:
        atol: Allowed everywhere.
        rtol: Allowed in proportion to the expected value.
        snr_db: Where given, the least ratio of an output's power to that of its difference, in decibels.
        by_element: Whether `atol` and `rtol` judge. Not int8, whose error is a share of a tensor's range
            and not of each element: only `snr_db` does there.
        agreement: Where given, the least share of a discrete output's elements that must be equal, and of the
            rows of class scores whose best class must be the same; None: all discrete elements.
        default: Whether it is a precision's default. Then `atol` follows the size of an output, and is
            raised to ten times the noise floor of the source where that is higher. A person's is taken as it is.
    """

    atol: float
    rtol: float
    snr_db: float | None = None
    by_element: bool = True
    agreement: float | None = None
    default: bool = False


@dataclass(frozen=True)
class WorstElement:
    """Where two outputs differ most, measured against what was allowed there.

    Attributes:
        output: The output's name.
        index: The element's position, one number for each axis.
        expected: The source's value; None where it is not finite.
        actual: The export's value; None where it is not finite.
        rung: On which inputs; empty while only one set is meant.
    """

    output: str
    index: tuple[int, ...]
    expected: float | None
    actual: float | None
    rung: str = ""


@dataclass(frozen=True)
class Metrics:
    """Measured differences, all computed in float64. None where a metric has no meaning.

    Attributes:
        max_abs_diff: max |actual - expected|.
        max_rel_diff: max |actual - expected| / max(|expected|, atol / rtol).
        mean_abs_diff: Mean of |actual - expected|.
        p99_abs_diff: What 99 % of |actual - expected| do not exceed, rounded up by at most a sixteenth.
        cosine: Cosine similarity of the flattened tensors; 1 for two zero vectors.
        snr_db: 10 log10(sum expected^2 / sum difference^2); None for an exact match.
        top1_agreement: Share of rows whose largest element is the same, where outputs look like class scores.
        top5_agreement: Share of rows whose largest element is among the export's five largest; from six classes.
        worst: The element that is furthest beyond what is allowed, or nearest to it.
    """

    max_abs_diff: float | None = None
    max_rel_diff: float | None = None
    cosine: float | None = None
    snr_db: float | None = None
    top1_agreement: float | None = None
    mean_abs_diff: float | None = None
    p99_abs_diff: float | None = None
    top5_agreement: float | None = None
    worst: WorstElement | None = None


@dataclass(frozen=True)
class Rung:
    """The comparison on one set of inputs.

    Attributes:
        name: What the inputs are (`example`, `batch 1`, `batch 3`, `x_1 11`, `zeros`, `drawn`).
        status: The verdict on these inputs alone.
        reason: Why it is not verified; empty when it is.
        outputs: Measured differences by output name.
        judged: Whether it counts in the verdict. Inputs beyond the samples' range judge fp32 only, and none
            at which the source itself cannot be relied on.
        noise: The source's own noise floor on these inputs, by output name.
    """

    name: str
    status: Status
    reason: str = ""
    outputs: Mapping[str, Metrics] = field(default_factory=dict)
    judged: bool = True
    noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseFloor:
    """How far a source's answers are from its own, computed another way, on inputs like its samples.

    Attributes:
        ways: What was compared (`float64`, `one thread`, `rows alone`); empty: nothing could be.
        outputs: The largest difference by output name; for a discrete output the share of its elements.
    """

    ways: tuple[str, ...] = ()
    outputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hop:
    """One step of the path to a target that did not match, run on the inputs that told.

    Attributes:
        conversion: From which format to which (`onnx → tflite`).
        agrees: Whether what it made is within the tolerance; None: that could not be told.
        reason: What was found, where it does not agree or nothing could be told.
    """

    conversion: str
    agrees: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Divergence:
    """Where an export that does not match leaves its source.

    Attributes:
        sentence: All of it, for people.
        rung: The inputs on which it was looked for.
        hops: Every step of the path, in order, up to the first whose result does not agree.
        hop: That step; empty: it could not be told.
        module: Path in the source of the first module whose result differs; empty: the model's own code, or unknown.
        operator: The operator in that module.
        modules: All modules that it may be, in order, where the export computes several in one.
        before: The last place of the source before it that agrees.
        tensor: The first tensor of the export that agrees with nothing in the source.
        difference: Root mean square of the difference at the place, as a share of what varies there; None: unknown.
    """

    sentence: str
    rung: str = ""
    hops: tuple[Hop, ...] = ()
    hop: str = ""
    module: str = ""
    operator: str = ""
    modules: tuple[str, ...] = ()
    before: str = ""
    tensor: str = ""
    difference: float | None = None


@dataclass(frozen=True)
class Latency:
    """How long one call takes.

    Attributes:
        median_ms: Half of the calls took no longer, in milliseconds.
        p90_ms: Nine tenths of them took no longer; None of fewer than ten calls.
        runs: Calls that were timed, after a warm-up.
        threads: Threads that computed meanwhile; None where the system does not tell.
    """

    median_ms: float
    p90_ms: float | None
    runs: int
    threads: int | None


@dataclass(frozen=True)
class Distribution:
    """How one output's differences are spread, for people to look at; it takes part in no verdict.

    Attributes:
        elements: Those compared, on all inputs that the metrics speak of.
        equal: Those without a difference, which are in no bin.
        edges: The ends of the bins of |actual - expected|, growing, with six digits: one more than `counts`.
        counts: Elements in each bin. The lowest one has all smaller differences too.
        allowed: The least and the most that an element was allowed to differ by; empty: no element alone was judged.
        expected: The source's values of elements drawn from the first inputs, with six digits.
        actual: The export's values of the same elements.
    """

    elements: int
    equal: int = 0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    allowed: tuple[float, ...] = ()
    expected: tuple[float, ...] = ()
    actual: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verification:
    """The verdict on one artifact, with everything that it rests on.

    Attributes:
        status: `verified`, `unverified`, `mismatch` or `failed`.
        by: `runtime` or `evaluator`.
        evidence: Where the inputs came from: `samples`, `example` or `random` (the weakest).
        tolerance: The tolerance in force.
        default_tolerance: What would be in force had nobody given another; None: it is in force.
        metrics: Differences over all outputs and all rungs that are judged and within the samples' range.
        rungs: The comparison on each set of inputs.
        reason: Why the status is not `verified`; empty when it is.
        latency_ms: Median time of one call on the example, in milliseconds, after a warm-up.
        latency_p90_ms: As in `Latency`.
        latency_runs: As in `Latency`.
        threads: As in `Latency`.
        source_latency_ms: The source's median on the same inputs, taken in the same way beside it.
        runtime: What ran it, with its version.
        notes: Sentences on what the inputs have not shown.
        divergence: For a mismatch, the first place where it goes wrong.
        absent: Whether nothing ran for want of a runtime on the machine that tried; another one may have it.
        verified_at: When, in UTC, ISO 8601.
        tools: Versions of the packages that ran it and the source, by name, where it was verified again later.
        distributions: How differences are spread, by output; of many outputs those nearest to what is allowed.
    """

    status: Status
    by: str = "runtime"
    evidence: str = ""
    tolerance: Tolerance | None = None
    default_tolerance: Tolerance | None = None
    metrics: Metrics = field(default_factory=Metrics)
    rungs: tuple[Rung, ...] = ()
    reason: str = ""
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_runs: int = 0
    threads: int | None = None
    source_latency_ms: float | None = None
    runtime: str = ""
    notes: tuple[str, ...] = ()
    divergence: Divergence | None = None
    absent: bool = False
    verified_at: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
