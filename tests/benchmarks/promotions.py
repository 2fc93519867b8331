"""A real server and a real worker, and promotions over REST timed until the version's status is final."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from mlflow import MlflowClient

from registry_export.entities import VERDICTS
from tests.support.server import MlflowServer

_RULES = """
rules:
  - models: "{name}"
    promotions: {{stages: [Staging, Production]}}
    targets: [{targets}]
"""
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.05, 0.1
_PATIENCE_S = 900.0
_FINAL = frozenset(str(status) for status in VERDICTS)


@dataclass(frozen=True)
class Promoted:
    """How one promotion went.

    Attributes:
        seconds: From before the REST call of the transition until the status was seen to be final.
        worker_cpu_s: Processor time of the worker's own process meanwhile: our spine, its uploads among it.
        children_cpu_s: That of all its children, the warm parents' starts among it.
        tags: The version's tags at the end, without their prefix.
        began: When, on the clock `time.time`.
    """

    seconds: float
    worker_cpu_s: float
    children_cpu_s: float
    tags: Mapping[str, str]
    began: float

    def outcome(self, variant: str) -> str:
        """The first word of a variant's tag."""
        return self.tags.get(variant, "").partition(" ")[0]


class Worker:
    """A running `registry-export worker`."""

    def __init__(self, process: psutil.Popen, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> tuple[float, float]:
        """Return processor time until now: its own process's, and that of all its children, living and ended."""
        own = self.process.cpu_times()
        below = own.children_user + own.children_system
        for child in self.process.children(recursive=True):
            try:
                below += sum(child.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return own.user + own.system, below


class Bed:
    """A server with models on it, and workers that are started on it.

    Args:
        folder: For everything.
        rules: Registered model -> its targets.
    """

    def __init__(self, folder: Path, rules: Mapping[str, Sequence[str]]) -> None:
        self.folder = folder
        self._server = MlflowServer(folder / "server")
        self._config = folder / "registry-export.yaml"
        text = "".join(
            _RULES.format(name=name, targets=", ".join(targets)).replace("\nrules:", "" if number else "\nrules:")
            for number, (name, targets) in enumerate(rules.items())
        )
        self._config.write_text(text)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.getenv("PYTHONPATH", "")]),
        }

    def __enter__(self) -> Bed:
        self._server.start()
        self.client = MlflowClient(self._server.uri)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop()

    def log(self, name: str, count: int) -> list[Path]:
        """Log versions of an architecture of `checkpoints`; returns where each is kept for the naive script."""
        command = [sys.executable, "-m", "tests.benchmarks.checkpoints", self._server.uri, str(self.folder)]
        subprocess.run([*command, name, str(count)], check=True, env=self._environment, stdout=subprocess.DEVNULL)
        return [self.folder / f"{name}-{version}" / "model.pth" for version in range(1, count + 1)]

    @contextmanager
    def worker(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Worker]:
        """Run a worker until the block ends; it has announced itself when the block begins."""
        environment = self._environment | {
            "MLFLOW_TRACKING_URI": self._server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": self._server.database_uri,
            "REGISTRY_EXPORT_CONFIG": str(self._config),
            "REGISTRY_EXPORT_LATENCY": "off",
            **(environ or {}),
        }
        log = self.folder / f"worker-{time.time_ns()}.log"
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "registry_export.cli", "worker", *arguments]
            process = psutil.Popen(command, env=environment, cwd=self.folder, stdout=stream, stderr=stream)
        worker = Worker(process, log)
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while "exports what is promoted" not in worker.log:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"The worker did not start:\n{worker.log}")
                time.sleep(0.05)
            yield worker
        finally:
            process.terminate()
            try:
                process.wait(60)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()

    def promote(self, worker: Worker, name: str, version: int, stage: str = "Staging") -> Promoted:
        """Promote a version over REST and wait for its verdict.

        Raises:
            RuntimeError: The worker ended, or there was none in time.
        """
        own, below = worker.cpu_seconds()
        wall, began = time.time(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage(name, str(version), stage)
        tags, seconds = self._settled(worker, name, version, began)
        own_after, below_after = worker.cpu_seconds()
        return Promoted(seconds, own_after - own, below_after - below, tags, wall)

    def _settled(self, worker: Worker, name: str, version: int, began: float) -> tuple[dict[str, str], float]:
        while (waited := time.perf_counter() - began) < _PATIENCE_S:
            tags = self.client.get_model_version(name, str(version)).tags
            seconds = time.perf_counter() - began
            if tags.get("registry_export.status") in _FINAL:
                return {key.removeprefix("registry_export."): value for key, value in tags.items()}, seconds
            if worker.process.poll() is not None:
                break
            # Looking costs the server's processor: rarely, where the whole takes long.
            time.sleep(min(max(_SHORTEST_POLL_S, waited / 100), _LONGEST_POLL_S))
        raise RuntimeError(f"{name}/{version} has no verdict after {waited:.0f} s:\n{worker.log[-4000:]}")
