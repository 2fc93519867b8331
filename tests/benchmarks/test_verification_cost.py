"""What verification costs beside conversion: ResNet-18 into ten formats, all rungs, latency measuring off."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from registry_export.isolation import ChildPool, Limits
from registry_export.reporter import Reporter
from tests.benchmarks.figures import Figure
from tests.support import laboratory
from tests.support.sources import SOURCES, TORCH, Source

AT_MOST = 0.5
FORMATS = (
    "torchscript", "exported_program", "onnx", "openvino", "tensorrt", "mnn", "ncnn", "tflite", "coreml", "executorch",
)  # fmt: skip


class Stopwatch(Reporter):
    """Adds up the seconds of the steps of one kind."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self.each = {}

    def step_finished(self, step, variant, outcome, seconds):
        self.seconds[step] += seconds
        self.each[step, variant] = seconds


def test_verification_costs_at_most_half_of_what_conversion_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
    monkeypatch.setenv("REGISTRY_EXPORT_LATENCY", "off")
    monkeypatch.setitem(SOURCES, "resnet18", Source("pytorch", TORCH, "tests.support.resnet:save"))
    watch = Stopwatch()
    bench = laboratory.Bench
    monkeypatch.setattr(laboratory, "Bench", lambda *parts: bench(*parts, reporter=watch))
    with ChildPool(Limits(timeout_s=600)) as pool:
        for warm in (True, False):  # the first pass starts the warm parents
            watch.seconds.clear()
            made = laboratory.Laboratory(tmp_path / str(warm), pool, {"resnet18": list(FORMATS)}).exported("resnet18")
    wrong = {variant: result.status for variant, (result, _) in made.made.items() if result.status == "mismatch"}
    assert not wrong
    checked = watch.seconds["verify"] + watch.seconds["reference"]
    for (name, variant), seconds in sorted(watch.each.items()):
        print(f"  {name} {variant}: {seconds:.1f} s")
    Figure(
        name="verification",
        what="verification of ResNet-18 in ten formats, all rungs, over its conversion",
        measured=checked / watch.seconds["convert"],
        limit=AT_MOST,
        scale=(
            f"{watch.seconds['reference']:.1f} s of reference and {watch.seconds['verify']:.1f} s of verification over "
            f"{watch.seconds['convert']:.1f} s of conversion"
        ),
        how="seconds in children, added up; the second pass, with warm parents",
    ).record()
