"""What is tortured: a server on a database, models on it, and workers that are started again whenever they end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from registry_export.ledger import Job, Ledger, OutboxReader
from tests.support.killable import KillableWorker
from tests.support.nursery import Nursery
from tests.support.postgres import PostgresServer
from tests.support.server import MlflowServer

LIGHT, REAL = ("planted", "planted_next"), ("onnx", "torchscript")
"""The targets of a promotion: of the light format, and of the real ones."""

LEASE_S = 2.0

_RULES = """
rules:
  - models: "real*"
    promotions: {{stages: [Staging], aliases: [champion]}}
    targets: [{real}]
  - models: "{prefix}*"
    promotions: {{stages: [Staging], aliases: [champion]}}
    targets: [{light}]
"""
_PARAMETERS = {"lease_s": LEASE_S, "poll_s": 0.2, "reconcile_s": 10.0}
_LEDGER = {"max_attempts": 10_000, "max_vanished": 10_000, "backoff_s": 0.5, "max_backoff_s": 2.0}
"""Hundreds of kills would send jobs to the dead letters, as they should."""

_ENVIRONMENT = {"REGISTRY_EXPORT_LATENCY": "off", "OMP_NUM_THREADS": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Bed:
    """A server, its database, and workers.

    Args:
        folder: For logs and rules.
        scratch: Where the workers' temporary folders are; a short path, for sockets lie in there.
        nursery: Starts workers.
        server: The server; running.
        postgres: Its database where that is one; None: SQLite.
        workers: How many.
        prefix: What the names of light models begin with.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        nursery: Nursery,
        server: MlflowServer,
        postgres: PostgresServer | None,
        workers: int,
        prefix: str,
    ) -> None:
        self.folder, self.scratch, self.server, self.postgres = folder, scratch, server, postgres
        self.workers: list[KillableWorker | None] = [None] * workers
        self.down: set[str] = set()
        self._nursery = nursery
        self._started = 0
        self._returning: list[threading.Thread] = []
        (folder / "rules.yaml").write_text(
            _RULES.format(real=", ".join(REAL), light=", ".join(LIGHT), prefix=prefix), encoding="utf-8"
        )
        self.environment = _ENVIRONMENT | {
            "MLFLOW_TRACKING_URI": server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
            "REGISTRY_EXPORT_CONFIG": str(folder / "rules.yaml"),
            "TMPDIR": str(scratch),
        }
        self._ledger = Ledger(server.database_uri)
        self._ledger.migrate()
        self._outbox = OutboxReader(server.database_uri)

    def keep(self) -> None:
        """Start the workers that have ended, as an orchestrator does."""
        for slot, worker in enumerate(self.workers):
            if worker is None or not worker.alive:
                self.workers[slot] = self._start()

    def _start(self) -> KillableWorker:
        self._started += 1
        log = self.folder / f"worker-{self._started:03}.log"
        worker = KillableWorker(self._nursery, self.environment, log, parameters=_PARAMETERS, ledger=_LEDGER)
        return worker.__enter__()

    def running(self) -> list[KillableWorker]:
        """The workers that live."""
        return [worker for worker in self.workers if worker is not None and worker.alive]

    def kill_server(self) -> None:
        """Kill MLflow's server, and let it come back by itself."""
        self.server.kill()
        self._return("server", self.server.start)

    def kill_database(self) -> None:
        """Kill PostgreSQL's postmaster, and let it come back by itself."""
        assert self.postgres is not None
        self.postgres.kill()
        self._return("postmaster", self.postgres.restart)

    def _return(self, name: str, start: Callable[[], object]) -> None:
        def come_back() -> None:
            start()
            self.down.discard(name)

        self.down.add(name)
        self._returning.append(threading.Thread(target=come_back, name=f"return of the {name}"))
        self._returning[-1].start()

    def recover(self) -> None:
        """Wait until the servers are back."""
        for thread in self._returning:
            thread.join()
        assert not self.down, f"{self.down} did not come back"
        self._returning.clear()

    def unsettled(self) -> list[Job] | None:
        """The jobs that wait or run; None where the database does not answer, or the outbox still has rows."""
        try:
            if not self._outbox.is_empty():
                return None
            return [job for job in self.jobs() if job.state in ("queued", "failed", "running")]
        except Exception:  # noqa: BLE001 - it may be down at any moment
            return None

    def jobs(self) -> tuple[Job, ...]:
        """All jobs."""
        return self._ledger.list(limit=10_000)

    def drain(self, seconds: float) -> list[Job]:
        """Let the workers do all there is to do, and return what they could not do in time."""
        deadline = time.monotonic() + seconds
        quiet = 0
        while quiet < 3 and time.monotonic() < deadline:
            self.keep()
            quiet = quiet + 1 if self.unsettled() == [] else 0
            time.sleep(0.3)
        return self.unsettled() or []

    def stop(self) -> list[str]:
        """Stop the workers as an orchestrator does; return what is left of them and should not be."""
        found = []
        workers = self.running()
        for worker in workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker in workers:
            status = worker.wait(60)
            if status:
                found.append(f"a stopped worker left with exit status {status}")
        sweeper = KillableWorker(
            self._nursery, self.environment, self.folder / "sweeper.log", parameters={"once": True}, ledger=_LEDGER
        )
        with sweeper:
            if status := sweeper.wait(120):
                found.append(f"a worker with --once left with exit status {status}")
        found += [f"{path.name} in TMPDIR, with {_within(path)}" for path in self.scratch.iterdir()]
        return found + [f"process {name}" for name in self._processes()]

    def _processes(self) -> list[str]:
        """Name the processes that still work in our folder for temporary files."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.cwd().startswith(str(self.scratch)):
                    found.append(" ".join(process.cmdline())[:80])
        return found

    def close(self) -> None:
        """Kill the workers and let go of the database."""
        for worker in self.running():
            worker.kill()
        self._ledger.dispose()
        self._outbox.dispose()


def _within(folder: Path) -> str:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    return ", ".join(names[:10]) or "nothing"
