"""Forks processes from one that has imported what they need, so that each of hundreds starts in a moment.

`python -m tests.support.nursery` reads a line of JSON for each: environment, log, and the arguments of
`registry-export`, or the parameters of `run_worker`. It answers with the process id, and writes the exit status beside
the log when the process has ended.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000


class Nursery:
    """Context manager: such a process, and whoever asks it. Its processes stay when it ends."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.nursery"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def start(self, **request: Any) -> int:
        """Start a process and return its id; the names are those of `_run`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def exit_file(log: Path, pid: int) -> Path:
    """Where the exit status of a process is written."""
    return log.with_suffix(f".{pid}.exit")


def _serve() -> None:
    logs: dict[int, Path] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        while logs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            place = exit_file(logs.pop(pid), pid)
            place.with_suffix(".part").write_text(str(os.waitstatus_to_exitcode(status)))
            place.with_suffix(".part").rename(place)
        if not ready:
            continue
        data = os.read(0, 1 << 20)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _run(**request)
            logs[pid] = Path(request["log"])
            os.write(1, b"%d\n" % pid)


def _run(
    environment: dict[str, str],
    log: str,
    arguments: list[str],
    parameters: dict[str, Any],
    ledger: dict[str, Any],
    disk_kb: int,
    clock_s: float,
) -> None:
    """Be the process: the command `registry-export worker`, or `run_worker` where there are parameters for it."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    # What PYTHONPATH adds is added by a start of Python.
    sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if disk_kb:
        _mount_small_disk(environment["TMPDIR"], disk_kb)
    if clock_s:
        right = time.time
        time.time = lambda: right() + clock_s
    try:
        if not parameters and not ledger:
            from registry_export.cli import main

            main(["worker", *arguments])
        else:
            from registry_export.ledger import Ledger
            from registry_export.settings import Settings
            from registry_export.worker import run_worker

            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", force=True)
            settings = Settings.from_environment()
            run_worker(settings, ledger=Ledger(settings.ledger_uri, **ledger), **parameters)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logging.exception("the worker ended")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def may_mount() -> bool:
    """Whether a process may have a disk of its own here: most containers forbid it, and so do some systems."""
    user = () if os.getuid() == 0 else ("--user", "--map-root-user")
    command = ["unshare", *user, "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _mount_small_disk(folder: str, kilobytes: int) -> None:
    """Put a disk of its own on a folder, for this process and what it starts alone."""
    user, group = os.getuid(), os.getgid()
    kinds = _NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USER
    if ctypes.CDLL(None, use_errno=True).unshare(kinds) != 0:
        raise OSError(ctypes.get_errno(), "No namespace of its own can be had here.")
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
    private = [["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]]
    for command in private:
        subprocess.run(command, check=True)


def main() -> None:
    """Import what workers import, and serve."""
    import alembic.command  # noqa: F401
    import psycopg2  # noqa: F401
    import sqlalchemy.dialects.postgresql
    import sqlalchemy.dialects.sqlite  # noqa: F401

    import registry_export.cli
    import registry_export.export
    import registry_export.reverification
    import registry_export.worker  # noqa: F401

    assert threading.active_count() == 1, "a fork would lose threads"
    _serve()


if __name__ == "__main__":
    main()
