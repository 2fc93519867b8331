"""Run every peer, and us, on one checkpoint, in turns: `python -m tests.peers.run`; keeps `build/peers/results.json`.

A turn is one fresh process that makes one format, as a person would type it. Every file is then asked the same
questions, by us.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.peers.checkpoint import ANSWERS, CHECKPOINT
from tests.peers.environments import FOLDER, folder_of

RESULTS = FOLDER / "results.json"
_ROUNDS = int(os.environ.get("ROUNDS", "3"))
_TIMEOUT_S = 900.0
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")


@dataclass(frozen=True)
class Entry:
    """One way to one format.

    Attributes:
        peer: `olive`, `optimum`, `navigator` or `ours`.
        format: What it makes.
        command: After the environment's `bin/`; `{folder}` is an empty folder, `{model}` the checkpoint.
        file: Glob of what it leaves in the folder.
        verifies: How it checks what it made, in our words, from its source.
    """

    peer: str
    format: str
    command: tuple[str, ...]
    file: str
    verifies: str


_OURS = "four sets of inputs and the edges of their range at several batch sizes, judged; `mismatch` is an outcome"
_NAVIGATOR_CHECK = "runs it on two random batches and records the difference; judges none unless given a function"
ENTRIES = (
    Entry(
        "olive", "onnx",
        ("olive", "capture-onnx-graph", "--model_name_or_path", "{model}", "--task", "image-classification",
         "--output_path", "{folder}", "--disable_telemetry"),
        "**/model.onnx", "not; its OnnxDiscrepancyCheck takes causal language models alone",
    ),
    Entry(
        "olive", "openvino", ("olive", "run", "--config", "{folder}/run.json", "--disable_telemetry"),
        "**/*.xml", "not",
    ),
    Entry(
        "optimum", "onnx",
        ("optimum-cli", "export", "onnx", "--model", "{model}", "--task", "image-classification", "{folder}"),
        "model.onnx", "one random batch, at another size than the example's; a breach of tolerance is a warning",
    ),
    *(
        Entry("navigator", name, ("python", "tests/peers/navigator.py", "{model}", name, "{folder}/work"), file, check)
        for name, file, check in (
            ("onnx", "work/onnx/model.onnx", _NAVIGATOR_CHECK),
            ("torchscript", "work/torchscript*/model.pt", _NAVIGATOR_CHECK),
            ("tensorrt", "work/trt*/model.plan", _NAVIGATOR_CHECK),
        )
    ),
    *(
        Entry("ours", name, ("python", "-m", "tests.peers.ours", name, "{folder}"), file, _OURS)
        for name, file in (
            ("onnx", "made/model.onnx"),
            ("torchscript", "made/model.pt"),
            ("openvino", "made/model.xml"),
            ("tensorrt", "made/model.engine"),
        )
    ),
)  # fmt: skip


@dataclass
class Result:
    """What the turns of an entry gave.

    Attributes:
        seconds, cpu_seconds: Of each turn's process.
        passes: Ours alone: what the two passes in each process took, in all and by their steps.
        size: Bytes of what it made.
        batches: Sizes that the file takes, of 1, 2 and 3.
        max_abs_diff: From the source, on all of them.
        said: The last lines of what failed, in its own words.
        load: The machine's load average (a minute's), the highest at the end of a turn.
    """

    peer: str
    format: str
    verifies: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    passes: list[list[dict[str, float | str]]] = field(default_factory=list)
    size: int = 0
    batches: list[int] = field(default_factory=list)
    max_abs_diff: float | None = None
    said: str = ""
    load: float = 0.0


def main() -> None:
    """Make the environments and the checkpoint where they are absent, and take the turns."""
    if not ANSWERS.exists():
        subprocess.run([sys.executable, "-m", "tests.peers.checkpoint"], check=True)
    chosen = [entry for entry in ENTRIES if os.environ.get("ONLY", "") in f"{entry.peer}-{entry.format}"]
    bins = {entry.peer: _bin(entry.peer) for entry in chosen}
    results = [Result(entry.peer, entry.format, entry.verifies) for entry in chosen]
    for number in range(_ROUNDS):
        for entry, result in zip(chosen, results, strict=True):
            if not result.said:
                _turn(entry, result, bins[entry.peer], FOLDER.resolve() / "made" / f"{entry.peer}-{entry.format}")
                print(f"{number + 1}: {entry.peer} {entry.format}: {result.said or f'{result.seconds[-1]:.1f} s'}")
            RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


def _bin(peer: str) -> Path:
    return Path(sys.executable).parent if peer == "ours" else folder_of(peer) / "bin"


def _turn(entry: Entry, result: Result, binaries: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(_olive_run(folder)))
    words = {"folder": str(folder), "model": str(CHECKPOINT)}
    command = [str(binaries / entry.command[0]), *(part.format(**words) for part in entry.command[1:])]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
    }
    began, before = time.perf_counter(), os.times()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        result.said = f"It did not end within {_TIMEOUT_S:.0f} s."
        return
    seconds, after = time.perf_counter() - began, os.times()
    result.load = max(result.load, os.getloadavg()[0])
    made = sorted(folder.glob(entry.file))
    if done.returncode or not made:
        logs = [log.read_text(errors="replace") for log in folder.rglob("*.log")]  # where Navigator says why
        result.said = _last_words("\n".join([done.stdout, done.stderr, *logs]))
        return
    result.seconds.append(seconds)
    result.cpu_seconds.append(
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    if entry.peer == "ours":
        result.passes.append(json.loads(done.stdout.splitlines()[-1]))
    result.size = sum(part.stat().st_size for part in made[0].parent.glob(f"{made[0].stem}.*"))
    if result.max_abs_diff is None and entry.format != "tensorrt":
        check = [sys.executable, "-m", "tests.peers.check", str(made[0]), str(ANSWERS)]
        said = json.loads(subprocess.run(check, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        result.batches, result.max_abs_diff = said["batches"], said["max_abs_diff"]


def _olive_run(folder: Path) -> dict[str, object]:
    """Return Olive's configuration for OpenVINO, which its command line does not offer for this model."""
    inputs = {"input_names": ["pixel_values"], "input_shapes": [[2, 3, 224, 224]], "output_names": ["logits"]}
    model = {"type": "HfModel", "model_path": str(CHECKPOINT), "task": "image-classification", "io_config": inputs}
    plain = {"compress_to_fp16": False, "static": False}
    device = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    return {
        "input_model": model,
        "systems": {"here": {"type": "LocalSystem", "accelerators": [device]}},
        "passes": {"convert": {"type": "OpenVINOConversion", "input_shapes": inputs["input_shapes"], **plain}},
        "host": "here",
        "target": "here",
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
    }


def _last_words(text: str) -> str:
    """Return the error that a text names most often, and of these the last; without one the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR.match(line)]
    return (sorted(named, key=named.count)[-1:] or lines[-1:] or ["nothing"])[0][:300]


def median(values: Sequence[float]) -> float:
    """The median, of which one value is enough."""
    return statistics.median(values)


if __name__ == "__main__":
    main()
