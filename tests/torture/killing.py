"""Who is killed, when: chosen at random by a seed."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tests.support.killable import KillableWorker
from tests.torture.bed import LEASE_S, Bed

_WEIGHTS = {"worker": 28, "child": 38, "warm parent": 22, "database": 6, "server": 3, "paused": 4}
"""How often each is chosen; `paused` is no kill: a worker stands still until its lease has lapsed."""

KILLS = tuple(name for name in _WEIGHTS if name != "paused")

_PATIENCE_S = 4.0
_A_STEP = 2
"""A step whose child is killed three times is given up, which is no loss but what is wanted."""

_SERVER_RESTS_S = 25.0


@dataclass
class Killer:
    """Kills.

    Args:
        bed: What it kills on.
        seed: Of its choices.
        pause_s: Mean time between two kills.
        servers: Whether MLflow's server is among the victims.

    Attributes:
        kills: By victim.
        pauses: How often a worker stood still past its lease.
    """

    bed: Bed
    seed: int
    pause_s: float
    servers: bool = True
    kills: Counter[str] = field(default_factory=Counter)
    pauses: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._of_a_job: Counter[tuple[int, int]] = Counter()
        self._server_since = time.monotonic()
        self._resuming: list[threading.Timer] = []

    def run(self, kills: int, goes_on: Callable[[], bool]) -> None:
        """Kill so often at random moments, as long as there is something to kill for."""
        enough = self.kills.total() + kills
        while self.kills.total() < enough and goes_on():
            self.bed.keep()
            time.sleep(self._random.uniform(0, 2 * self.pause_s))
            names = [name for name in _WEIGHTS if name != "database" or self.bed.postgres is not None]
            victim = self._random.choices(names, [_WEIGHTS[name] for name in names])[0]
            self._kill(victim, self._random.random())

    def end(self) -> None:
        """Let those go on that stand still."""
        for timer in self._resuming:
            timer.join()

    def _kill(self, victim: str, which: float) -> None:
        workers = self.bed.running()
        worker = workers[int(which * len(workers))] if workers else None
        if victim == "server":
            rested = time.monotonic() - self._server_since > _SERVER_RESTS_S
            if not self.servers or not rested or self.bed.down:
                return
            self._server_since = time.monotonic()
            self.bed.kill_server()
        elif victim == "database":
            if self.bed.down:
                return
            self.bed.kill_database()
        elif worker is None:
            return
        elif victim == "worker":
            worker.kill()
        elif victim == "paused":
            self._pause(worker)
            return
        elif not self._kill_below(workers[workers.index(worker) :] + workers, victim == "child"):
            return
        self.kills[victim] += 1

    def _pause(self, worker: KillableWorker) -> None:
        worker.signal(signal.SIGSTOP)
        self.pauses += 1
        timer = threading.Timer(self._random.uniform(1.2, 2.0) * LEASE_S, worker.signal, (signal.SIGCONT,))
        timer.start()
        self._resuming.append(timer)

    def _kill_below(self, workers: list[KillableWorker], child: bool) -> bool:
        """Kill a child or a warm parent of the first worker that soon has one, and whose job can bear it."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            for worker in workers:
                job = worker.pid, worker.log.count(": attempt ")
                if not worker.alive or self._of_a_job[job] >= _A_STEP:
                    continue
                for process in worker.children() if child else worker.parents():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                        self._of_a_job[job] += 1
                        return True
            time.sleep(0.01)
        return False
