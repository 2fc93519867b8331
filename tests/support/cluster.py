"""A real Dask cluster: a scheduler and `dask worker` processes on this machine, and a store between them and us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.server import free_port

_START_S = 60.0


class DaskCluster:
    """Context manager: a scheduler, and workers that are started and killed as a test asks.

    Args:
        folder: Where logs, worker folders and the store live.
        environ: Further environment variables of all of them.
        protocol: `tcp` or `tls`.

    Attributes:
        address: The scheduler's.
        blobs: Artifact URI of the store.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None, protocol: str = "tcp") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.address = f"{protocol}://127.0.0.1:{free_port()}"
        self.blobs = (folder / "blobs").as_uri()
        self._environ = {
            **os.environ,
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
            "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false",
            **(environ or {}),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker(
        self,
        name: str,
        *options: str,
        resources: str = "memory=4e9",
        threads: int = 1,
        nanny: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a Dask worker; it connects on its own."""
        local = self.folder / f"local-{name}"
        command = ["worker", self.address, "--name", name, "--nthreads", str(threads), "--resources", resources]
        command += ["--local-directory", str(local), "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--nanny" if nanny else "--no-nanny", *options]
        return self._start(name, command, environ or {})

    def kill_worker(self, name: str) -> None:
        """End a Dask worker without a word."""
        os.killpg(self._processes[name].pid, signal.SIGKILL)
        self._processes.pop(name).wait()

    def stop_scheduler(self) -> None:
        """End the scheduler without a word."""
        self.kill_worker("scheduler")

    def pid(self, name: str) -> int:
        """Return a process's number."""
        return self._processes[name].pid

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, text: str, seconds: float = _START_S) -> None:
        """Wait until a process has printed something."""
        until = time.monotonic() + seconds
        while text not in self.log(name):
            assert time.monotonic() < until, self.log(name)
            time.sleep(0.05)

    def _start(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                env={**self._environ, **environ},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def __enter__(self) -> Self:
        host, port = self.address.rpartition("/")[2].split(":")
        options = ["--host", host, "--port", port, "--protocol", self.address.partition(":")[0], "--no-dashboard"]
        self._start("scheduler", ["scheduler", *options], {})
        self.wait_for("scheduler", "Scheduler at")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            self.kill_worker(name)
