"""What we do with the same checkpoint: `python -m tests.peers.ours FORMAT FOLDER`.

Twice in one process: the first pass starts the toolchains, the second finds them warm, as a worker's second promotion
does. Prints what each pass took, in all and by its steps.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from registry_export.format import Toolchain
from registry_export.isolation import ChildPool, Limits
from registry_export.reporter import Reporter
from tests.peers.checkpoint import CHECKPOINT
from tests.support import laboratory
from tests.support.sources import SOURCES, Source


class Stopwatch(Reporter):
    """Adds up the seconds of the steps of one kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        self.seconds[step] += seconds


class Peer(laboratory.Laboratory):
    """A laboratory whose source is there already: copied, with one batch of inputs."""

    def build(self, source: str) -> tuple[Path, Path]:
        work = self.folder / source
        work.mkdir(parents=True)
        shutil.copytree(CHECKPOINT, work / "model")
        shutil.copy(CHECKPOINT.with_suffix(".npz"), work / "model.npz")
        return work / "model", work


def main(name: str, folder: str) -> None:
    """Export twice."""
    SOURCES["peer"] = Source("transformers", Toolchain("none", ()), "", samples=True)
    bench, passes, files = laboratory.Bench, [], None
    with ChildPool(Limits(timeout_s=600)) as pool:
        for number in range(2):
            watch = Stopwatch()
            laboratory.Bench = lambda *parts, watch=watch: bench(*parts, reporter=watch)
            made = Peer(Path(folder, str(number)), pool, {"peer": [name]}).exported("peer")
            ((result, files),) = made.made.values()
            passes.append({"seconds": made.seconds, "status": result.status, **watch.seconds})
    if files is not None:
        shutil.copytree(files, Path(folder, "made"))
    print(json.dumps(passes))


if __name__ == "__main__":
    main(*sys.argv[1:])
