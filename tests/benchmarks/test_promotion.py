"""From a promotion over REST to a published verdict, beside the naive script, in turns in one run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.benchmarks import naive
from tests.benchmarks.figures import Figure, record_all
from tests.benchmarks.naive import Took
from tests.benchmarks.promotions import Bed, Promoted, Worker
from tests.benchmarks.traces import Trace, profile

pytestmark = pytest.mark.timeout(3600)

_REPEATED = 5
_NOT_RUN_HERE = "tensorrt"
_WARM_HOW = "median of two versions, one between the two halves of the script and one after it"


@dataclass(frozen=True)
class Run:
    """What one run measured.

    Attributes:
        script: Each format of ResNet-18 by the naive script.
        cold, warm: Promotions of ResNet-18 into all formats.
        again: Promotions of a version of it that is exported already.
        small, small_script: A small net into ONNX.
        traces: Where the worker wrote a trace of each of its exports.
    """

    script: Mapping[str, Took]
    cold: Promoted
    warm: Sequence[Promoted]
    again: Sequence[Promoted]
    small: Sequence[Promoted]
    small_script: Sequence[Took]
    traces: Path

    @property
    def script_s(self) -> float:
        return sum(took.seconds for took in self.script.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("promotion")
    with Bed(folder, {"resnet18": naive.FORMATS, "small": ("onnx",)}) as bed:
        resnets, smalls = bed.log("resnet18", 3), bed.log("small", 1 + _REPEATED)
        with bed.worker(environ={"REGISTRY_EXPORT_TRACE": str(folder / "traces")}) as worker:
            yield _measure(bed, worker, resnets[0], smalls, folder)


def _measure(bed: Bed, worker: Worker, resnet: Path, smalls: Sequence[Path], folder: Path) -> Run:
    cold = bed.promote(worker, "resnet18", 1)
    half = len(naive.FORMATS) // 2
    script = naive.run_all(resnet, folder / "naive", naive.FORMATS[:half])
    warm = [bed.promote(worker, "resnet18", 2)]
    script |= naive.run_all(resnet, folder / "naive", naive.FORMATS[half:])
    warm.append(bed.promote(worker, "resnet18", 3))
    stages = ("Production", "Staging")
    again = [bed.promote(worker, "resnet18", 3, stages[number % 2]) for number in range(_REPEATED)]
    bed.promote(worker, "small", 1)  # so that its kind of job is no longer new to the worker
    small, small_script = [], []
    for number, checkpoint in enumerate(smalls[1:], start=2):
        small_script.append(naive.run("onnx", checkpoint, folder / f"naive-{number}"))
        small.append(bed.promote(worker, "small", number))
    return Run(script, cold, warm, again, small, small_script, folder / "traces")


def _assert_whole(promoted: Promoted, formats: Sequence[str]) -> None:
    """Nothing is fast because it was left out."""
    wrong = {
        name: promoted.tags.get(name)
        for name in formats
        if promoted.outcome(name) != ("unverified" if name == _NOT_RUN_HERE else "verified")
    }
    assert not wrong, wrong


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def test_ten_formats_take_a_fraction_of_the_naive_script(run):
    for promoted in (run.cold, *run.warm):
        _assert_whole(promoted, naive.FORMATS)
    warm = _median([promoted.seconds for promoted in run.warm])
    script = f"the script, each format in a fresh process: {run.script_s:.1f} s"
    record_all(
        Figure(
            name=f"ten-formats-{name}",
            what=f"ten formats of ResNet-18 at 224 by 224, promotion to published, {name} worker",
            measured=seconds / run.script_s,
            limit=limit,
            baseline=script,
            scale=f"{seconds:.1f} s",
            how=how,
            where=tuple(profile(Trace.of(run.traces, "resnet18", version), promoted.seconds)),
        )
        for name, seconds, limit, how, version, promoted in (
            ("warm", warm, 0.15, _WARM_HOW, 1 + len(run.warm), run.warm[-1]),
            ("cold", run.cold.seconds, 0.30, "the first promotion that a just started worker sees", 1, run.cold),
        )
    )


def test_our_own_time_is_a_small_part_of_the_whole(run):
    version, promoted = 1 + len(run.warm), run.warm[-1]
    trace = Trace.of(run.traces, "resnet18", version)
    uncovered, own_cpu_s = promoted.seconds - trace.covered_s, promoted.worker_cpu_s - trace.moving_cpu_s
    Figure(
        name="own-time",
        what="our own time outside converters, runtimes and uploads, of the whole",
        measured=100 * max(uncovered, own_cpu_s) / promoted.seconds,
        limit=5.0,
        unit="%",
        scale=(
            f"{uncovered:.2f} s in which no child ran and no file was moved, and {own_cpu_s:.2f} s of processor time "
            f"of the worker's own process beside uploads, of {promoted.seconds:.1f} s"
        ),
        how="ten formats of ResNet-18, warm; the larger of the two",
    ).record()


def test_one_format_of_a_small_net_takes_seconds(run):
    for promoted in run.small:
        _assert_whole(promoted, ("onnx",))
    seconds = _median([promoted.seconds for promoted in run.small])
    script = _median([took.seconds for took in run.small_script])
    how = f"median of {len(run.small)} versions, in turns with the script"
    what = "ONNX of a small net, promotion to published, warm worker"
    record_all(
        [
            Figure(
                name="one-format-warm",
                what=what,
                measured=seconds / script,
                limit=0.25,
                baseline=f"the script in a fresh process: {script:.1f} s",
                scale=f"{seconds:.2f} s",
                how=how,
            ),
            Figure(
                name="one-format-seconds", what=f"{what}, in seconds", measured=seconds, limit=3.0, unit="s", how=how
            ),
        ]
    )


def test_what_is_exported_already_is_published_again_at_once(run):
    for promoted in run.again:
        _assert_whole(promoted, naive.FORMATS)
    Figure(
        name="promoted-again",
        what="promotion of an exported version to another stage, ten formats",
        measured=_median([promoted.seconds for promoted in run.again]),
        limit=1.0,
        unit="s",
        how=f"median of {len(run.again)}",
    ).record()
