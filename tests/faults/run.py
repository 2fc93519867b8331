"""Plant every fault: `python -m tests.faults.run`. It resumes where it stopped; `SHARD=i/n` takes the i-th of n parts.

Each fault goes into the format whose turn it is, so that every format gets faults of every kind. Results are kept in
`build/faults`, one file for each net; `python -m tests.faults.table docs/faults.md` makes the page of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from registry_export.entities import Status
from registry_export.errors import RegistryExportError
from registry_export.isolation import ChildPool, Limits
from tests.faults import spoiled
from tests.faults.nets import NETS
from tests.faults.plant import Control, Planted, Workbench
from tests.support.laboratory import TARGETS

RESULTS = Path("build/faults")
FORMATS = tuple(target for target in TARGETS if target != "tensorrt")
"""Formats that can be run here; an engine needs its GPU."""

_FORMATS_A_FAULT = 1
_WORKERS = 2


@dataclass
class Result:
    """What one net gave."""

    net: str
    controls: dict[str, Control] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    refused: list[Planted] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False


def main() -> None:
    """Run every net of the shard that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run only nets whose names contain this")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, separated by commas")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two conversions run side by side
    install = tempfile.mkdtemp(prefix="faults-")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (spoiled.install(Path(install)), str(Path.cwd()), os.environ.get("PYTHONPATH")))
    )
    with ChildPool(Limits(timeout_s=240)) as pool:
        for net in shard(os.environ.get("SHARD", "1/1")):
            if arguments.only in net:
                run_net(net, pool, arguments.formats.split(","))
    shutil.rmtree(install, ignore_errors=True)


def shard(text: str) -> tuple[str, ...]:
    """Take every n-th net: `1/4` to `4/4` make up the whole."""
    position, _, count = text.partition("/")
    if not (position.isdigit() and count.isdigit() and 1 <= int(position) <= int(count)):
        raise SystemExit(f"SHARD must be written i/n, 1/4 to 4/4 say, not {text!r}.")
    return tuple(NETS)[int(position) - 1 :: int(count)]


def run_net(net: str, pool: ChildPool, formats: list[str]) -> None:
    """Plant all faults of a net; what is done is kept after each fault."""
    path = RESULTS / f"{net}.json"
    result = msgspec.json.decode(path.read_bytes(), type=Result) if path.is_file() else Result(net)
    if result.done:
        return
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{net}-"))
    bench = Workbench(net, pool, folder, formats)
    try:
        result.controls = bench.controls
        had = {one.fault for one in (*result.planted, *result.refused) if one.where == "source"}
        waiting = [n for n, fault in enumerate(bench.catalogue["faults"]) if fault["name"] not in had]
        assert not waiting or bench.effects  # measured once, before the threads ask for them
        with ThreadPoolExecutor(_WORKERS) as executor:
            for records in executor.map(lambda number: _plant(bench, number, _sound(result)), waiting):
                _note(result, records)
                _keep(path, result)
            chosen = spoiled.turns(_sound(result), list(NETS).index(net))
            _note(result, filter(None, executor.map(lambda pair: spoiled.plant(bench, *pair), chosen)))
        result.done = True
    except RegistryExportError as error:
        print(f"{net}: {error}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    result.seconds += time.monotonic() - began
    _keep(path, result)
    _tell(result)


def _tell(result: Result) -> None:
    missed = [one for one in result.planted if one.verdict == Status.VERIFIED and one.effect > 1]
    texts = ", ".join(f"{one.fault} ({one.format}, {one.effect:.3g})" for one in missed)
    unsound = ", ".join(name for name, control in result.controls.items() if control.status != Status.VERIFIED)
    print(
        f"{result.net}: {len(result.planted)} planted, {result.seconds:.0f} s; missed: {texts or 'none'}; "
        f"sound and not verified: {unsound or 'none'}",
        flush=True,
    )


def _sound(result: Result) -> list[str]:
    """The formats in which the unmutated net is verified: a verdict on a fault means nothing in the others."""
    return [name for name, control in result.controls.items() if control.status == Status.VERIFIED]


def _plant(bench: Workbench, number: int, sound: list[str]) -> list[Planted]:
    """Plant a fault in the formats whose turn it is; where a converter refuses it, in the next ones."""
    start = (_FORMATS_A_FAULT * number + list(NETS).index(bench.net)) % max(1, len(sound))
    waiting, records, planted = sound[start:] + sound[:start], [], 0
    while waiting and planted < _FORMATS_A_FAULT:
        taken, waiting = waiting[: _FORMATS_A_FAULT - planted], waiting[_FORMATS_A_FAULT - planted :]
        records += bench.plant(number, taken)
        planted = sum(bool(one.verdict) for one in records)
    return records


def _note(result: Result, records: Iterable[Planted]) -> None:
    for one in records:
        (result.planted if one.verdict else result.refused).append(one)


def _keep(path: Path, result: Result) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(result))))


if __name__ == "__main__":
    main()
