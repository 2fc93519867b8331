"""Faults that only an artifact can have: planted around its runner, or in its file."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry_export.discovery import discover_formats
from registry_export.entities import Description, Interface
from registry_export.errors import RegistryExportError
from registry_export.format import Toolchain
from registry_export.inference import Origin
from registry_export.isolation import ChildPool, Limits
from registry_export.tensors import read_tensors
from registry_export.verification import verify
from tests.faults.mutations_of_arrays import bf16

if TYPE_CHECKING:
    from tests.faults.plant import Planted, Workbench

Array = NDArray[Any]
Outputs = Mapping[str, Array]
_CRASHED = ("crash at load", "crash at a batch of 1", "hang", "file cut short", "file empty")
_HANGS_SECONDS = 12


def install(folder: Path) -> str:
    """Make a distribution whose format runs another format's artifact and spoils what it says."""
    info = folder / "spoiled_formats-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoiled-formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[registry_export.formats]\nspoiled = tests.faults.spoiled:Spoiled\n")
    return str(folder)


def _each(change: Callable[[Array], Array], kinds: str = "f") -> Callable[[Outputs], Outputs]:
    return lambda outputs: {n: change(a) if a.dtype.kind in kinds else a for n, a in outputs.items()}


def _exchanged(outputs: Outputs) -> Outputs:
    names = list(outputs)
    return dict(zip(names, [outputs[name] for name in (*names[1:], names[0])], strict=True))


def _one_element(array: Array) -> Array:
    changed = np.array(array)
    flat = changed.reshape(-1)
    if flat.size:
        flat[np.abs(flat).argmax()] *= flat.dtype.type(1.05)
    return changed


def _not_a_number(array: Array) -> Array:
    changed = np.array(array)
    if changed.size:
        changed.reshape(-1)[-1] = np.nan
    return changed


SPOILERS: dict[str, tuple[str, Callable[[Outputs], Outputs]]] = {
    "the outputs are in the wrong order": ("output order", _exchanged),
    "the first output is missing": ("output missing", lambda outputs: dict(list(outputs.items())[1:])),
    "there is an output too many": ("output missing", lambda outputs: {**outputs, "more": np.zeros(1)}),
    "the batch is ignored beyond the first row": (
        "batch",
        _each(lambda a: np.repeat(a[:1], len(a), axis=0) if a.ndim else a, "fiub"),
    ),
    "rows beyond the third are zero": (
        "batch",
        _each(lambda a: np.concatenate([a[:3], 0 * a[3:]]) if a.ndim else a),
    ),
    "the rows are in another order": ("batch", _each(lambda a: a[::-1].copy() if a.ndim else a, "fiub")),
    "floats are returned as doubles": ("dtype", _each(lambda a: a.astype(np.float64))),
    "floats are returned as fp16": ("dtype", _each(lambda a: a.astype(np.float16))),
    "the answer is rounded to bf16": ("precision", _each(bf16)),
    "the answer saturates at 1": ("saturation", _each(lambda a: np.clip(a, -1, 1))),
    "the largest element is 5 % larger": ("one element", _each(_one_element)),
    "the last element is NaN": ("NaN", _each(_not_a_number)),
    "the last row of the answer is lost": ("last row or column", _each(lambda a: a[:-1] if a.ndim else a, "fiub")),
    "an axis of size 1 is added": ("dtype", _each(lambda a: a[None], "fiub")),
    "the first answer is given again": ("state", dict),
    "crash at load": ("crash", dict),
    "crash at a batch of 1": ("crash", dict),
    "hang": ("crash", dict),
    "file cut short": ("file", dict),
    "file empty": ("file", dict),
}
"""What is broken -> its kind, and what it does to the outputs; the last ones do more than that."""


class _SpoiledRunner:
    """A runner that says what a sound one says, spoiled."""

    def __init__(self, runner: Any, name: str) -> None:
        self._runner, self._name = runner, name
        self.interface, self.runtime = runner.interface, runner.runtime
        self._first: dict[tuple[tuple[int, ...], ...], Outputs] = {}

    def infer(self, inputs: Mapping[str, Array]) -> Outputs:
        """Run it, and spoil the answer."""
        if self._name == "hang":
            time.sleep(600)
        if self._name == "crash at a batch of 1" and any(a.ndim and len(a) == 1 for a in inputs.values()):
            ctypes.string_at(0)
        answer = self._runner.infer(inputs)
        if self._name == "the first answer is given again":
            return self._first.setdefault(tuple(a.shape for a in inputs.values()), answer)
        return SPOILERS[self._name][1](answer)


class Spoiled:
    """The format that runs spoiled artifacts: a folder with `fault.json` that says which and how."""

    name, summary, extra, filename, kind, verified_by = "spoiled", "spoiled artifacts", "", "fault.json", "", ""
    requirements = options = conversions = ()
    toolchain = Toolchain("spoiled")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Recognise nothing."""
        return None

    def load(self, path: Path, interface: Interface) -> Any:
        """Load nothing."""
        raise NotImplementedError

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[_SpoiledRunner]:
        """Open the sound artifact, and spoil what it says."""
        said = msgspec.json.decode(path.read_bytes())
        if said["fault"] == "crash at load":
            ctypes.string_at(0)
        with discover_formats()[said["format"]].open(Path(said["path"]), interface) as runner:
            yield _SpoiledRunner(runner, said["fault"])

    def describe(self, path: Path) -> Description:
        """Say nothing."""
        return Description(Interface(()))


class _Impatient(ChildPool):
    """The same pool with less patience, for what hangs."""

    def __init__(self, pool: ChildPool) -> None:
        self.pool = pool

    def call(self, *arguments: Any, limits: Limits | None = None, **rest: Any) -> Any:
        """Run a child that may take some seconds."""
        return self.pool.call(*arguments, limits=Limits(timeout_s=_HANGS_SECONDS), **rest)


def turns(variants: Sequence[str], turn: int) -> list[tuple[str, str]]:
    """Choose the sound artifacts to spoil in a net whose turn it is: every other one, and the way to spoil each."""
    names = list(SPOILERS)
    return [
        (variant, names[(turn * 7 + position * 3) % len(names)])
        for position, variant in enumerate(variants)
        if (turn + position) % 2 == 0
    ]


def plant(bench: Workbench, variant: str, name: str) -> Planted | None:
    """Spoil one sound artifact and verify it; None where the spoiling changes nothing."""
    from tests.faults.plant import Planted, judge

    result, folder = bench.made[variant]
    assert folder is not None
    assert result.description is not None
    sound = discover_formats()[result.format]
    work = Path(tempfile.mkdtemp(prefix="spoiled-", dir=bench.folder))
    shutil.copytree(folder, work / "artifact")
    (work / "verify").mkdir()
    path = work / "artifact" / sound.filename
    if name.startswith("file"):
        _damage(path, empty=name == "file empty")
    effects = _effects(bench, name)
    record = Planted(bench.net, SPOILERS[name][0], name, variant, where="artifact")
    record.anywhere, record.hidden = max(effects), max(effects)
    record.allclose = _allclose(bench, name)
    if record.anywhere == 0:
        return None
    (work / "fault.json").write_bytes(msgspec.json.encode({"format": result.format, "path": str(path), "fault": name}))
    artifact = Origin("spoiled", str(work / "fault.json"), result.description.interface)
    pool = _Impatient(bench.pool) if name == "hang" else bench.pool
    try:
        verification = verify(pool, sound.toolchain, artifact, bench.reference, bench.tolerance, work / "verify")
        judge(record, verification, effects)
    except RegistryExportError as error:
        record.verdict, record.reason, record.effect = "failed", str(error), record.anywhere
    shutil.rmtree(work / "artifact", ignore_errors=True)
    return record


def _damage(path: Path, *, empty: bool) -> None:
    """Cut the artifact's largest file to a half, or to nothing."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    os.truncate(largest, 0 if empty else largest.stat().st_size // 2)


def _effects(bench: Workbench, name: str) -> list[float]:
    """What spoiling does to the source's own answers, rung by rung."""
    from tests.faults.effects import LARGEST, effect

    if name in _CRASHED:
        return [LARGEST] * len(bench.reference.rungs)
    found, first = [], {}
    for rung in bench.reference.rungs:
        expected = dict(read_tensors(Path(rung.expected)))
        shapes = tuple(array.shape for array in read_tensors(Path(rung.inputs)).values())
        spoiled = first.setdefault(shapes, expected) if "again" in name else SPOILERS[name][1](expected)
        if set(spoiled) != set(expected) or any(spoiled[n].dtype != a.dtype for n, a in expected.items()):
            found.append(LARGEST)
            continue
        noise = [rung.noise.get(output, 0.0) for output in expected]
        found.append(effect(list(expected.values()), [spoiled[n] for n in expected], bench.tolerance, noise))
    return found


def _allclose(bench: Workbench, name: str) -> bool:
    """Whether `np.allclose` on one input would notice: the example stands for it."""
    from tests.faults.effects import allclose

    if name in _CRASHED:
        return name != "crash at a batch of 1"
    expected = dict(read_tensors(Path(bench.reference.rungs[0].expected)))
    spoiled: Sequence[Array] = list((expected if "again" in name else SPOILERS[name][1](expected)).values())
    return not allclose(list(expected.values()), spoiled)
