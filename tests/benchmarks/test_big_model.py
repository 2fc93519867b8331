"""A transformer of 3 GB in float32 into five targets: what our children allocate beside what the raw calls do."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from registry_export.bench import Bench, run_reference
from registry_export.checkpoint import read_checkpoint
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.graph import plan_export
from registry_export.isolation import ChildPool
from registry_export.manifest import combined_digest, file_records
from registry_export.reporter import Reporter
from registry_export.targets import export_targets
from tests.benchmarks.figures import Figure
from tests.benchmarks.memory import Peaks, run_raw

AT_MOST = 1.1
GIGABYTE = 1e9
NEEDED = int(14 * GIGABYTE)
LAYERS = int(os.environ.get("BIG_MODEL_LAYERS", "14"))
"""Of 201 MB each, beside 250 MB of embeddings: 14 make 3.07 GB."""

TARGETS = "onnx, torchscript, exported_program, openvino, onnx:precision=fp16"

_OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

_MAKE = """
from transformers import BertConfig, BertModel
config = BertConfig(hidden_size=2048, num_hidden_layers={layers}, num_attention_heads=32, intermediate_size=8192)
BertModel(config).save_pretrained({model!r})
"""

_LOAD = """
import torch, transformers
model = transformers.BertModel.from_pretrained({model!r}).eval()
inputs = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
batch, length = torch.export.Dim("batch"), torch.export.Dim("sequence", min=2, max=512)
shapes = ({{0: batch, 1: length}}, {{0: batch, 1: length}})
"""

RAW = {
    "reference": _LOAD + "with torch.no_grad(): model(*inputs)",
    "onnx": _LOAD
    + 'torch.onnx.export(model, inputs, "model.onnx", dynamo=True, external_data=True, dynamic_shapes=shapes)',
    "torchscript": _LOAD + 'torch.jit.save(torch.jit.trace(model, inputs, strict=False), "model.pt")',
    "exported_program": _LOAD
    + 'torch.export.save(torch.export.export(model, inputs, dynamic_shapes=shapes), "model.pt2")',
    "openvino": """
import openvino
openvino.save_model(openvino.convert_model("../onnx/model.onnx"), "model.xml", compress_to_fp16=False)
""",
    "onnx-fp16": """
import onnx
from onnxruntime.transformers import float16
model = onnx.load("../onnx/model.onnx")
half = float16.convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
onnx.save(half, "model.onnx", save_as_external_data=True, location="model.onnx.data")
""",
}
"""What somebody runs who calls the converters by hand, each in a process of its own."""


class Stopwatch(Reporter):
    """Keeps the seconds of every step."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        self.seconds[step, variant] += seconds


@pytest.mark.skipif(
    psutil.virtual_memory().available < NEEDED * LAYERS / 14, reason="needs 14 GB of memory that nothing else uses"
)
def test_no_child_takes_more_memory_than_the_raw_call(tmp_path: Path) -> None:
    model = tmp_path / "model"
    run_raw(_MAKE.format(layers=LAYERS, model=str(model)), tmp_path / "made", _OFFLINE)
    (tmp_path / "work").mkdir()
    watch = Stopwatch()
    began = time.monotonic()
    with Peaks() as peaks:
        made, numbers, rungs = _ours(model, tmp_path / "work", watch)
    total = time.monotonic() - began
    wrong = {variant: (result.status, result.error) for variant, (result, _) in made.items()}
    assert {status for status, _ in wrong.values()} == {"verified"}, wrong
    assert {len(result.verification.rungs) for result, _ in made.values()} == {rungs}
    raw = {name: run_raw(code.format(model=str(model)), tmp_path / name, _OFFLINE) for name, code in RAW.items()}
    steps = tmp_path / "work" / "steps"
    ours = {variant: peaks.bytes[str(steps / f"work-{number}")] for variant, number in numbers.items()}
    worst = max(ours, key=lambda name: ours[name] / raw[name][0])
    Figure(
        name="big-model-memory",
        what=f"most memory that converting {_size(model)} takes, over the raw call's",
        measured=ours[worst] / raw[worst][0],
        limit=AT_MOST,
        scale=f"{worst}: {_gb(ours[worst])}; the raw call {_gb(raw[worst][0])}",
        baseline="the converter called by hand in a fresh process",
        how="the worst of five targets, allocated memory sampled every 50 ms, mapped files left out",
        where=tuple(_lines(ours, raw, peaks, tmp_path / "work", watch, total)),
    ).record()


def _ours(model: Path, work: Path, watch: Stopwatch) -> tuple[dict, dict[str, int], int]:
    formats = discover_formats()
    with ChildPool() as pool:
        bench = Bench(formats, pool, work, reporter=watch, latency=False)
        checkpoint = read_checkpoint(model, formats)
        targets = parse_targets(TARGETS, "targets", formats)
        plan = plan_export(checkpoint.format, targets, formats, samples=False)
        reference = run_reference(bench, checkpoint.origin, "", "random", targets)
        made = export_targets(bench, checkpoint.origin, plan, plan.targets, reference)
    for result, folder in made.values():
        assert result.sha256 == combined_digest(file_records(folder))
    steps = list(plan.steps)
    numbers = {p.target.variant: steps.index(p.routes[0]) for p in plan.targets}
    return made, numbers, len(reference.rungs)


def _lines(
    ours: dict[str, int], raw: dict[str, tuple[int, float]], peaks: Peaks, work: Path, watch: Stopwatch, total: float
) -> Iterator[str]:
    for name, size in ours.items():
        peak, seconds = raw[name]
        spent = watch.seconds["convert", name]
        yield f"{name}: {_gb(size)} and {spent:.0f} s to convert; the raw call {_gb(peak)} and {seconds:.0f} s."
    peak, seconds = raw["reference"]
    yield (
        f"The source's own answers to all inputs: {_gb(peaks.bytes[str(work / 'reference')])} and "
        f"{watch.seconds['reference', '']:.0f} s; loaded and run once {_gb(peak)} and {seconds:.0f} s."
    )
    verifying = {Path(f).name: size for f, size in peaks.bytes.items() if Path(f).name.startswith("verify")}
    spent = sum(seconds for (step, _), seconds in watch.seconds.items() if step == "verify")
    yield f"Verifying takes {_gb(max(verifying.values()))} at most, and {spent:.0f} s in all; the whole {total:.0f} s."


def _size(model: Path) -> str:
    return f"a transformer of {sum(file.stat().st_size for file in model.iterdir()) / GIGABYTE:.2f} GB"


def _gb(size: float) -> str:
    return f"{size / GIGABYTE:.2f} GB"
