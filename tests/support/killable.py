"""Workers as processes of their own, which can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.nursery import Nursery, exit_file


class KillableWorker:
    """Context manager: a worker that runs until the block ends, then is killed.

    Args:
        nursery: Starts it.
        environment: What it finds its server, database and rules by, in place of ours; an empty value removes one.
        log: What it prints goes there.
        arguments: Those of `registry-export worker`.
        parameters: Those of `run_worker`; the command is not used where there are any.
        ledger: Those of its `Ledger`, likewise.
        disk_kb: How large the disk of its temporary folder is; 0: as it is.
        clock_s: By how much its clock is wrong.
    """

    def __init__(
        self,
        nursery: Nursery,
        environment: Mapping[str, str],
        log: Path,
        arguments: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        ledger: Mapping[str, Any] | None = None,
        disk_kb: int = 0,
        clock_s: float = 0.0,
    ) -> None:
        self._nursery = nursery
        self._request = {
            "environment": {name: value for name, value in {**os.environ, **environment}.items() if value},
            "log": str(log),
            "arguments": list(arguments),
            "parameters": dict(parameters or {}),
            "ledger": dict(ledger or {}),
            "disk_kb": disk_kb,
            "clock_s": clock_s,
        }
        self._log = log

    def __enter__(self) -> Self:
        self.pid = self._nursery.start(**self._request)
        self._exit = exit_file(self._log, self.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What it and those before it on the same log have printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._exit.exists()

    def wait(self, seconds: float = 120.0) -> int:
        """Wait for its end, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", seconds, self.log)
            time.sleep(0.01)
        return int(self._exit.read_text())

    def parents(self) -> list[psutil.Process]:
        """Return its warm parents."""
        return _children(self.pid)

    def children(self) -> list[psutil.Process]:
        """Return the children of its warm parents."""
        return [child for parent in self.parents() for child in _children(parent.pid)]

    def family(self) -> list[psutil.Process]:
        """Return all that descends from it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, itself alone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> list[psutil.Process]:
        """Kill it as an out-of-memory killer would; returns what had descended from it."""
        family = self.family()
        self.signal(signal.SIGKILL)
        self.wait(20)
        return family


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []
