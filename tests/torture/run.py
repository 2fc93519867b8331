"""Kill everything, again and again: `python -m tests.torture.run`; `SEED=n` makes the same choices as before.

Each cell, a database with a number of workers, has a seed of its own that follows from the one that is printed.
Results are kept in `build/torture`, with every worker's log; `python -m tests.torture.table docs/torture.md` makes the
page of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from registry_export.entities import ModelVersionRef
from tests.support.authors import AuthorPool
from tests.support.nursery import Nursery
from tests.support.planted_versions import PlantedVersions, planted_versions
from tests.support.postgres import PostgresServer
from tests.support.registered import TORCH
from tests.support.server import MlflowServer
from tests.torture.bed import Bed
from tests.torture.checks import Findings, look
from tests.torture.killing import Killer
from tests.torture.promoting import Promoter, Promotion

RESULTS = Path("build/torture")
DATABASES, WORKERS = ("sqlite", "postgresql"), (1, 2, 8)

_DRAIN_S = 240.0
_EACH_MOVED = 10
"""One model of so many has two versions, between which its alias moves."""


@dataclass(frozen=True)
class Plan:
    """How much is done in one cell.

    Attributes:
        promotions: Of the light format, at the least.
        kills: While they are under way.
        pause_s: Mean time between two of these.
        real: Promotions of real formats.
        real_kills: While those are under way.
        real_pause_s: Mean time between two of those.
        servers: Whether MLflow's server is killed too.
    """

    promotions: int = 27
    kills: int = 80
    pause_s: float = 0.25
    real: int = 0
    real_kills: int = 10
    real_pause_s: float = 5.0
    servers: bool = True


@dataclass
class Result:
    """What one cell gave."""

    seed: int
    database: str
    workers: int
    printed_seed: int = 0
    promotions: int = 0
    real: int = 0
    moved: int = 0
    deleted: int = 0
    paused: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)


def plan_of(workers: int) -> Plan:
    """Return how much a cell does: two workers have real formats as well, and one worker is slow to recover."""
    return {1: Plan(kills=60), 2: Plan(kills=80, real=6), 8: Plan(kills=115)}[workers]


def torture(bed: Bed, versions: PlantedVersions, result: Result, plan: Plan, prefix: str) -> None:
    """Promote and kill on a bed, let it come to rest, and look; names of light models begin with `prefix`."""
    chance = random.Random(result.seed)
    seeds = [chance.randrange(1 << 30) for _ in range(4)]
    began = time.monotonic()
    light = _register(versions, prefix, plan.promotions + plan.promotions // 2)
    real = [[ref] for ref in _register_real(versions.uri, plan.real)]
    killer = Killer(bed, seeds[0], plan.pause_s, plan.servers)
    made: list[Promotion] = []
    for waiting, kills, least, seed, pause_s in (
        (light, plan.kills, plan.promotions, seeds[1], plan.pause_s),
        (real, plan.real_kills, plan.real, seeds[2], plan.real_pause_s),
    ):
        if not waiting:
            continue
        killer.pause_s = pause_s
        promoter = Promoter(versions.client, waiting, seed, lambda: _has_room(bed))
        promoter.start()
        killer.run(kills, lambda promoter=promoter: not promoter.exhausted or bool(bed.unsettled() or bed.down))
        while len(promoter.made) < least and not promoter.exhausted:
            bed.keep()
            time.sleep(0.1)
        bed.recover()
        promoter.end()
        killer.end()
        bed.drain(_DRAIN_S)
        made += promoter.made
        result.moved += promoter.moved
        result.deleted += promoter.deleted
    unsettled = bed.drain(_DRAIN_S)
    left = bed.stop()
    result.promotions, result.real, result.kills = len(made), plan.real, dict(killer.kills)
    result.paused, result.attempts = killer.pauses, sum(job.attempt for job in bed.jobs())
    result.findings = look(versions.uri, versions.formats, made, bed.jobs())
    result.findings.left += [f"job {job.id} ({job.model_version}) is {job.state}: {job.error}" for job in unsettled]
    result.findings.left += left
    result.seconds = time.monotonic() - began


def _has_room(bed: Bed) -> bool:
    """Few are under way, so that there is something to kill for all the time, and no heap at the end."""
    unsettled = bed.unsettled()
    return unsettled is not None and len(unsettled) < 2 * len(bed.workers) + 2


def _register(versions: PlantedVersions, prefix: str, count: int) -> list[list[ModelVersionRef]]:
    """Register models of different content, some with two versions."""

    def register(number: int) -> list[ModelVersionRef]:
        twice = number % _EACH_MOVED == _EACH_MOVED - 1
        name = f"{prefix}-{number:03}"
        return [versions.register(name, scale=2.0 + number + part / 10) for part in range(2 if twice else 1)]

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(register, range(count)))


def _register_real(uri: str, count: int) -> list[ModelVersionRef]:
    if not count:
        return []
    found = []
    with AuthorPool() as authors, tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            name = f"real-{number}"
            arguments = {"uri": uri, "name": name, "seed": number}
            builder = "tests.torture.nets:log_net"
            work = Path(folder, str(number))
            work.mkdir()
            version = authors.call(TORCH, builder, arguments, work).value
            found.append(ModelVersionRef(name, str(version)))
    return found


@contextlib.contextmanager
def _cell(database: str, workers: int, folder: Path) -> Iterator[tuple[Bed, PlantedVersions]]:
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        # Outside of our folders, which PostgreSQL's own user may not enter.
        postgres = stack.enter_context(PostgresServer(scratch / "data")) if database == "postgresql" else None
        scratch.chmod(0o755)
        uri = postgres.create_database() if postgres is not None else None
        server = stack.enter_context(MlflowServer(folder / "server", database_uri=uri))
        versions = stack.enter_context(planted_versions(server.uri, folder / "site"))
        nursery = stack.enter_context(Nursery())
        (scratch / "tmp").mkdir()
        bed = Bed(folder, scratch / "tmp", nursery, server, postgres, workers, prefix="light")
        stack.callback(bed.close)
        yield bed, versions


def run_cell(printed_seed: int, seed: int, database: str, workers: int) -> Result:
    """Run one cell, and keep its result."""
    folder = RESULTS / f"{database}-{workers}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result = Result(seed, database, workers, printed_seed)
    with _cell(database, workers, folder.absolute()) as (bed, versions):
        torture(bed, versions, result, plan_of(workers), "light")
    (RESULTS / f"{database}-{workers}.json").write_bytes(msgspec.json.encode(result))
    return result


def seeds_of(seed: int) -> dict[tuple[str, int], int]:
    """Derive a seed for each cell, the same whichever of them are run."""
    chance = random.Random(seed)
    return {(database, workers): chance.randrange(1 << 30) for database in DATABASES for workers in WORKERS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every cell; leaves with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose names contain this (`postgresql-8`)")
    options = parser.parse_args(arguments)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # a call that fails is made again by whoever made it
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "20"
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 16))
    print(f"SEED={seed} make torture repeats these choices.", flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    wrong = False
    for (database, workers), own in seeds_of(seed).items():
        if options.only not in f"{database}-{workers}":
            continue
        result = run_cell(seed, own, database, workers)
        told = ", ".join(f"{victim} {count}" for victim, count in sorted(result.kills.items()))
        print(
            f"{database}, {workers} workers: {result.promotions} promotions, killed: {told}; paused {result.paused}, "
            f"{result.attempts} attempts, {result.seconds:.0f} s",
            flush=True,
        )
        for sentence in result.findings.all:
            wrong = True
            print(f"  WRONG (SEED={seed}): {sentence}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
