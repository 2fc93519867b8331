"""Workers as processes of their own, which can be killed.

`python -m tests.support.killable '{"lease_s": 2}'` is such a worker, with parameters that no command has.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil


class KillableWorker:
    """Context manager: a worker that runs until the block ends, then is killed with all that it has started.

    Args:
        environment: What it finds its server, database and rules by, in place of ours.
        log: What it prints goes there.
        arguments: Those of `registry-export worker`.
        parameters: Those of `run_worker`; the command is not used where there are any.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        arguments: tuple[str, ...] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._environment = {**os.environ, **environment}
        self._log = log
        self._command = [sys.executable, "-m", "registry_export.cli", "worker", *arguments]
        if parameters is not None:
            self._command = [sys.executable, "-m", "tests.support.killable", json.dumps(dict(parameters))]

    def __enter__(self) -> Self:
        with self._log.open("ab") as stream:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=stream, stderr=stream, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What it and those before it on the same log have printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def parents(self) -> list[psutil.Process]:
        """Return its warm parents."""
        return self._children(psutil.Process(self.process.pid)) if self.alive else []

    def children(self) -> list[psutil.Process]:
        """Return the children of its warm parents."""
        return [child for parent in self.parents() for child in self._children(parent)]

    def family(self) -> list[psutil.Process]:
        """Return all that descends from it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    @staticmethod
    def _children(process: psutil.Process) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.children()
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> list[psutil.Process]:
        """Kill it as an out-of-memory killer would, itself alone; returns what had descended from it."""
        family = self.family()
        self.process.kill()
        self.process.wait()
        return family


def main() -> None:
    """Run a worker whose parameters are the only argument."""
    from registry_export.settings import Settings
    from registry_export.worker import run_worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    run_worker(Settings.from_environment(), **json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
