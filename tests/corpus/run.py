"""Run the corpus: `python -m tests.corpus.run`. It resumes where it stopped, and `SHARD=i/n` takes the i-th of n parts.

For every model and every target: the export's verdict, the same conversion by a raw call, and whether what was
called verified agrees with the source on inputs that the export has not seen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.entities import Status
from registry_export.errors import RegistryExportError
from registry_export.format import Toolchain
from registry_export.inference import Origin, RungFiles
from registry_export.isolation import ChildPool, Limits
from registry_export.replay import Replay, ReplayRequest
from registry_export.tensors import read_tensors
from tests.corpus.entries import ENTRIES, Entry
from tests.support.laboratory import FORMATS, TARGETS, Exported, Laboratory
from tests.support.sources import SOURCES, Source

RESULTS = Path("build/corpus")
RAW_TOLERANCE = 1e-3
"""Largest difference, over the largest value of an output, at which a raw result counts as right: what an export's
own tolerance allows of each element."""
_TOLERANCE = 1e-2
"""The same for what was called verified, on inputs that the export had not seen."""

_KERAS_CALLS = ("keras", "saved_model", "frozen_graph", "tflite", "onnx", "openvino", "coreml", "tensorrt")
_TORCH_CALLS = (
    "onnx", "torchscript", "exported_program", "openvino", "tflite", "coreml", "ncnn", "mnn", "executorch", "tensorrt",
)  # fmt: skip


@dataclass
class Result:
    """What one model gave: `ours` and `raw` by target."""

    name: str
    family: str
    ours: dict[str, dict[str, Any]] = field(default_factory=dict)
    raw: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def main() -> None:
    """Run every model of the shard that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run only names that contain this")
    parser.add_argument("--targets", default=",".join(TARGETS), help="targets, separated by commas")
    parser.add_argument("--ours", action="store_true", help="leave the raw calls to a later run without this")
    arguments = parser.parse_args()
    entries = [e for e in shard(os.environ.get("SHARD", "1/1")) if arguments.only in e.name]
    RESULTS.mkdir(parents=True, exist_ok=True)
    targets = arguments.targets.split(",")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    with ChildPool(Limits(timeout_s=240)) as pool:
        for number, entry in enumerate(entries, 1):
            path = RESULTS / f"{entry.name.replace('/', '-')}.json"
            result = msgspec.json.decode(path.read_bytes(), type=Result) if path.is_file() else _blank(entry)
            missing = [target for target in targets if target not in result.ours]
            calls = [] if arguments.ours else [t for t in _calls(entry) if t in targets and t not in result.raw]
            if result.error or not (missing or calls):
                continue
            run_entry(entry, pool, missing, calls, result)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(result))))
            verified = sum(cell["status"] == Status.VERIFIED for cell in result.ours.values())
            right = sum(cell["right"] for cell in result.raw.values())
            print(
                f"{number}/{len(entries)} {entry.name}: {verified} verified, raw {right}, {result.seconds:.0f} s "
                f"{result.error}",
                flush=True,
            )


def shard(text: str) -> tuple[Entry, ...]:
    """Take every n-th model: `1/4` to `4/4` make up the whole."""
    position, _, count = text.partition("/")
    if not (position.isdigit() and count.isdigit() and 1 <= int(position) <= int(count)):
        raise SystemExit(f"SHARD must be written i/n, 1/4 to 4/4 say, not {text!r}.")
    return ENTRIES[int(position) - 1 :: int(count)]


def _blank(entry: Entry) -> Result:
    return Result(entry.name, entry.family)


def _calls(entry: Entry) -> tuple[str, ...]:
    return _KERAS_CALLS if entry.family.startswith("keras") else _TORCH_CALLS


def run_entry(entry: Entry, pool: ChildPool, targets: list[str], calls: list[str], result: Result) -> None:
    """Export one model into targets, and make the raw calls into `calls`; what they gave goes into `result`."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    SOURCES[entry.name] = Source("", entry.toolchain, "tests.corpus.entries:save", samples=True)
    try:
        laboratory = _Corpus(folder, pool, {entry.name: targets})
        exported = laboratory.exported(entry.name)
        recheck = _Recheck(entry, pool, folder)
        result.ours |= {variant: _ours(exported, variant, recheck) for variant in exported.made}
    except RegistryExportError as error:
        result.error = str(error)
    for target in calls:
        result.raw[target] = _raw(entry, target, pool, folder)
    shutil.rmtree(folder, ignore_errors=True)
    result.seconds += time.monotonic() - began


class _Corpus(Laboratory):
    """A laboratory whose builder is told which model to make."""

    def build(self, source: str) -> tuple[Path, Path]:
        work = self.folder / "export"
        (work / "build").mkdir(parents=True)
        folder = work / "model"
        arguments = {"folder": str(folder), "name": source}
        self.pool.call(
            SOURCES[source].toolchain, "tests.corpus.entries:save", arguments, work / "build", writes=(work,)
        )
        return folder, work


@dataclass
class _Recheck:
    """Runs verified artifacts once more, on inputs that no export has seen, and compares by other means."""

    entry: Entry
    pool: ChildPool
    folder: Path
    _made: bool = False

    def agrees(self, exported: Exported, variant: str) -> str:
        """Say `agrees`, or how it does not."""
        self._make()
        made, artifact = exported.made[variant]
        assert artifact is not None
        assert made.description is not None
        format_ = FORMATS[made.format]
        origin = Origin(made.format, str(artifact / format_.filename), made.description.interface)
        work = Path(tempfile.mkdtemp(dir=self.folder))
        request = ReplayRequest(origin, (self._rung(exported),), str(work))
        outcome = self.pool.call(
            format_.toolchain,
            "registry_export.replay:replay",
            msgspec.to_builtins(request),
            work,
            reads=(self.folder,),
        )
        replayed = msgspec.convert(outcome.value, Replay).rungs[0]
        if replayed.skipped:
            return f"not run: {replayed.skipped}"
        if replayed.error:
            return replayed.error
        expected = list(read_tensors(self.folder / "fresh-expected").values())
        actual = list(read_tensors(Path(replayed.actual)).values())
        return _compare(expected, actual)

    def _make(self) -> None:
        if not self._made:
            work = Path(tempfile.mkdtemp(dir=self.folder))
            names = {"inputs": str(self.folder / "fresh-inputs"), "expected": str(self.folder / "fresh-expected")}
            function = "tests.corpus.entries:fresh_inputs"
            arguments = {"name": self.entry.name, **names}
            self.pool.call(self.entry.toolchain, function, arguments, work, writes=(self.folder,))
            self._made = True

    def _rung(self, exported: Exported) -> RungFiles:
        """Give the fresh inputs the names that the export has."""
        from registry_export.tensors import write_tensors

        given = read_tensors(self.folder / "fresh-inputs")
        names = [spec.name for spec in exported.reference.interface.inputs]
        arrays = {n: given.get(n, a) for n, a in zip(names, given.values(), strict=True)}
        place = Path(tempfile.mkdtemp(dir=self.folder)) / "inputs"
        write_tensors(place, arrays)
        return RungFiles("fresh", "", str(place), str(self.folder / "fresh-expected"))


def _compare(expected: list[np.ndarray], actual: list[np.ndarray]) -> str:
    if len(expected) != len(actual):
        return f"{len(actual)} outputs instead of {len(expected)}"
    for position, (e, a) in enumerate(zip(expected, actual, strict=True)):
        e, a = np.asarray(e, np.float64), np.asarray(a, np.float64)
        if e.shape != a.shape:
            return f"output {position}: shape {a.shape} instead of {e.shape}"
        size = max(float(np.abs(e).max(initial=0)), 1e-2)
        if not np.abs(a - e).max(initial=0) <= _TOLERANCE * size:
            return f"output {position}: off by {float(np.abs(a - e).max()):.3g} of {size:.3g}"
    return "agrees"


def _ours(exported: Exported, variant: str, recheck: _Recheck) -> dict[str, Any]:
    made, _ = exported.made[variant]
    verification = made.verification
    cell = {
        "status": made.status,
        "path": made.path,
        "seconds": made.convert_seconds,
        "max_abs_diff": verification.metrics.max_abs_diff if verification else None,
        "error": made.error.message if made.error else verification.reason if verification else "",
    }
    if made.status is Status.VERIFIED:
        try:
            cell["recheck"] = recheck.agrees(exported, variant)
        except RegistryExportError as error:
            cell["recheck"] = f"not run: {error}"
    return cell


def _raw(entry: Entry, target: str, pool: ChildPool, folder: Path) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(dir=folder))
    arguments = {"name": entry.name, "target": target, "folder": str(work)}
    try:
        outcome = pool.call(_toolchain(entry, target), "tests.corpus.raw:convert", arguments, work)
    except RegistryExportError as error:
        return {"right": False, "error": str(error)[:400]}
    value = outcome.value
    right = not value["ran"] or value["relative"] <= RAW_TOLERANCE
    return {"right": right, "error": "" if right else f"off by {value['relative']:.3g}", **value}


def _toolchain(entry: Entry, target: str) -> Toolchain:
    """The toolchain of the target's own edge from the framework; `transformers` is imported once for all calls."""
    kind = "keras_model" if entry.family.startswith("keras") else "torch_module"
    edges = [edge for edge in FORMATS[target].conversions if edge.kind == kind]
    toolchain = edges[0].toolchain if edges else FORMATS["onnx"].conversions[0].toolchain
    if kind == "keras_model":
        return toolchain
    return Toolchain(f"raw-{toolchain.name}", (*toolchain.modules, "transformers"), toolchain.environment)


if __name__ == "__main__":
    main()
