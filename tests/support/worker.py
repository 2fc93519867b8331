"""A real `registry-export worker` in a process of its own, and what it writes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

PATIENCE_S = 120.0


class WorkerProcess:
    """Context manager: a worker whose log is JSON; SIGTERM at the end.

    Args:
        folder: Its working folder, where its rules are (`registry-export.yaml`) and its log is written.
        environ: Added to the environment; an empty value removes the variable.
        arguments: Of the command `worker`.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.log_path = folder / "worker.log"
        self._environ = {**os.environ, "REGISTRY_EXPORT_LOG": "json", **environ}
        self._environ = {name: value for name, value in self._environ.items() if value}
        self._command = [sys.executable, "-m", "registry_export.cli", "worker", *arguments]

    def __enter__(self) -> Self:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environ, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line that it has written; one that is no JSON is an error."""
        return [json.loads(line) for line in self.log_path.read_text().split("\n") if line]

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the first event of a kind.

        Raises:
            AssertionError: it ended before, or the time was over.
        """
        return until(lambda: next(filter(wanted, self._whole_events()), None), self._what_it_said)

    def _whole_events(self) -> list[dict[str, Any]]:
        assert self.process.poll() is None, self._what_it_said()
        return [json.loads(line) for line in self.log_path.read_text().split("\n")[:-1]]

    def _what_it_said(self) -> str:
        return self.log_path.read_text()


def ended(processes: Iterable[psutil.Process]) -> bool:
    """Whether processes run no more; a zombie is nobody's harm, and stays where no init collects it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)
    return False


def until(look: Callable[[], Any], why_not: Callable[[], str] = str, patience_s: float = PATIENCE_S) -> Any:
    """Look again until there is something, and return that.

    Raises:
        AssertionError: the time was over.
    """
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.1)
    return found
