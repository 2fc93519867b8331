"""A real `mlflow server` in its own process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 120.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """Context manager: `mlflow server` with proxied artifacts on a free port, killed at the end.

    Args:
        folder: Where its log, its artifacts and (by default) its SQLite database live.
        database_uri: SQLAlchemy URL of the backend store; a SQLite file in `folder` when None.
        arguments: Further command-line arguments (`--app-name basic-auth`).
        environ: Further environment variables; an empty value removes the variable.
        python: The interpreter whose MLflow is started.
        workers: How many server processes share the port.
        port: The port; a free one when None. Give it to start again where an earlier server stood.

    Attributes:
        uri: The tracking URI, once started.
        database_uri: The backend store's URL.
        log_path: What the server printed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_uri: str | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        python: str = sys.executable,
        workers: int = 1,
        port: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database_uri = database_uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "server.log"
        self._arguments = tuple(arguments)
        self._environ = dict(environ or {})
        self._python = python
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything the server has printed so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> Self:
        """Start the server and wait until it answers `/health`."""
        command = [self._python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", str(self._workers), "--backend-store-uri", self.database_uri]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self._arguments]
        environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONUNBUFFERED": "1"}
        # A tracking URI of the tests would send the server's own client calls to another server.
        environ.pop("MLFLOW_TRACKING_URI", None)
        for name, value in self._environ.items():
            environ[name] = value
            if not value:
                del environ[name]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environ, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait_until_healthy()
        return self

    def stop(self) -> None:
        """End the server and everything it started."""
        if self._process is None:
            return
        for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Kill the server and everything it started, without a word; `start` starts it anew."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"mlflow server ended with {self._process.returncode}:\n{self.log}")
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"mlflow server did not answer within {START_TIMEOUT_S:.0f} s:\n{self.log}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
