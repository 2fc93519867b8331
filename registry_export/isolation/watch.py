"""One running child against its limits."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from registry_export.errors import ChildError, ChildTimeoutError, RegistryExportError
from registry_export.isolation.answers import out_of_memory
from registry_export.isolation.leavings import entries
from registry_export.isolation.limits import Limits

_DISK_SECONDS = 1.0
_MOST_FILES = 200_000
_LEAST_SHARE = 0.05
"""Of the disk that was free when the child began: less than that, and it is ended."""
_BLOCK = 512
"""Bytes of what `st_blocks` counts."""

_SEARCH_SECONDS = 0.5
_NOT_MAPPED = re.compile(rb"^Rss(?:Anon|Shmem):\s*(\d+) kB", re.MULTILINE)


class Descent:
    """A process and its descendants, looked at again and again; the descendants are looked for twice a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: list[int] = []
        self._searched = -math.inf

    def resident(self) -> tuple[int, int]:
        """Return their resident memory together, in bytes, and how many they are; zeros when they are gone."""
        now = time.monotonic()
        if now - self._searched >= _SEARCH_SECONDS:
            self._searched = now
            self._members = _descent(self._pid)
        return sum(map(_resident, self._members)), len(self._members)


def _descent(pid: int) -> list[int]:
    """List a process and all that descend from it.

    The kernel keeps each thread's children, where it was built to; psutil looks through all processes of the machine,
    which takes milliseconds.
    """
    found = [pid]
    try:
        for parent in found:  # which grows meanwhile
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found.extend(map(int, (thread / "children").read_text().split()))
    except FileNotFoundError:
        with contextlib.suppress(psutil.Error):
            found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except OSError:
        pass  # it ended meanwhile
    return list(dict.fromkeys(found))


def _resident(pid: int) -> int:
    """Return a process's memory in bytes without what it has mapped of files, which the kernel can drop."""
    try:
        with Path(f"/proc/{pid}/status").open("rb", buffering=0) as status:
            return sum(map(int, _NOT_MAPPED.findall(status.read()))) * 1024
    except OSError:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
        return 0


class Watch:
    """Looks whether a child is past one of its limits, and says which.

    Attributes:
        limit: The one that it looked at last: `time`, `memory`, `processes` or `disk`.
    """

    def __init__(self, pid: int, limits: Limits, folders: Sequence[Path], disk: int) -> None:
        self._limits = limits
        self._memory = limits.memory
        self._folders = folders
        self._disk = disk
        self._least_free = psutil.disk_usage(str(folders[0])).free * _LEAST_SHARE
        self._descent = Descent(pid)
        self._deadline = time.monotonic() + limits.timeout_s
        self._disk_due = time.monotonic() + _DISK_SECONDS
        self.limit = ""

    def breach(self) -> RegistryExportError | None:
        """Return the error that a child is to be ended with, if it is."""
        self.limit = "time"
        if time.monotonic() > self._deadline:
            return ChildTimeoutError(
                f"It did not end within {self._limits.timeout_s:g} s and was killed.",
                remedy="Raise REGISTRY_EXPORT_CHILD_TIMEOUT (seconds) if the model needs longer.",
            )
        self.limit = "memory"
        memory, processes = self._descent.resident()
        if memory > self._memory:
            return out_of_memory(self._limits, f"It used {memory / 1e9:.1f} GB and was killed")
        self.limit = "processes"
        if processes > self._limits.processes:
            return ChildError(f"It started {processes} processes and was killed; {self._limits.processes} are allowed.")
        self.limit = "disk"
        return self._too_much_written()

    def _too_much_written(self) -> RegistryExportError | None:
        if time.monotonic() < self._disk_due:
            return None
        size = files = 0
        try:
            for _, found in entries(self._folders):
                size += found.st_blocks * _BLOCK
                files += 1
                if files > _MOST_FILES:
                    break
        except ChildError as error:
            return error
        self._disk_due = time.monotonic() + _DISK_SECONDS
        # Files without a name are nobody's; what is missing on the disk shows them.
        free = psutil.disk_usage(str(self._folders[0])).free
        if size <= self._disk and files <= _MOST_FILES and free >= self._least_free:
            return None
        return ChildError(
            f"It wrote {size / 1e9:.1f} GB into {files} files and was killed: {self._disk / 1e9:.1f} GB in "
            f"{_MOST_FILES} files are allowed, and {free / 1e9:.1f} GB are left on the disk.",
            remedy="Free space where temporary folders are (TMPDIR) if the model needs more.",
        )


def kill_descent(pid: int) -> None:
    """Kill a process, its group and all that descend from it."""
    members = _descent(pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
