"""One running child against its limits."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from registry_export.errors import ChildError, ChildTimeoutError, RegistryExportError
from registry_export.isolation.answers import out_of_memory
from registry_export.isolation.limits import Limits

_DISK_SECONDS = 1.0
_MOST_FILES = 200_000
_BLOCK = 512
"""Bytes of what `st_blocks` counts."""

_SEARCH_SECONDS = 0.5


class Descent:
    """A process and its descendants, looked at again and again.

    Descendants are looked for among all processes of the machine, which takes milliseconds: twice a second at most.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: list[psutil.Process] = []
        self._searched = -math.inf

    def resident(self) -> tuple[int, int]:
        """Return their resident memory together, in bytes, and how many they are; zeros when they are gone."""
        now = time.monotonic()
        total = 0
        with contextlib.suppress(psutil.Error):
            if now - self._searched >= _SEARCH_SECONDS:
                self._searched = now
                process = psutil.Process(self._pid)
                self._members = [process, *process.children(recursive=True)]
            for member in self._members:
                with contextlib.suppress(psutil.Error):
                    total += member.memory_info().rss
        return total, len(self._members)


class Watch:
    """Looks whether a child is past one of its limits, and says which."""

    def __init__(self, pid: int, limits: Limits, folders: Sequence[Path], disk: int) -> None:
        self._limits = limits
        self._folders = folders
        self._disk = disk
        self._descent = Descent(pid)
        self._deadline = time.monotonic() + limits.timeout_s
        self._disk_due = time.monotonic() + _DISK_SECONDS

    def breach(self) -> RegistryExportError | None:
        """Return the error that a child is to be ended with, if it is."""
        if time.monotonic() > self._deadline:
            return ChildTimeoutError(
                f"It did not end within {self._limits.timeout_s:g} s and was killed.",
                remedy="Raise REGISTRY_EXPORT_CHILD_TIMEOUT (seconds) if the model needs longer.",
            )
        memory, processes = self._descent.resident()
        if memory > self._limits.memory:
            return out_of_memory(self._limits, f"It used {memory / 1e9:.1f} GB and was killed")
        if processes > self._limits.processes:
            return ChildError(f"It started {processes} processes and was killed; {self._limits.processes} are allowed.")
        return self._too_much_written()

    def _too_much_written(self) -> RegistryExportError | None:
        if time.monotonic() < self._disk_due:
            return None
        size, files = _written(self._folders)
        self._disk_due = time.monotonic() + _DISK_SECONDS
        if size <= self._disk and files <= _MOST_FILES:
            return None
        return ChildError(
            f"It wrote {size / 1e9:.1f} GB into {files} files and was killed; {self._disk / 1e9:.1f} GB in "
            f"{_MOST_FILES} files are allowed.",
            remedy="Free space where temporary folders are (TMPDIR) if the model needs more.",
        )


def kill_descent(pid: int) -> None:
    """Kill a process, its group and all that descend from it."""
    members: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.kill()


def _written(folders: Sequence[Path]) -> tuple[int, int]:
    """Bytes on disk below some folders, and the number of files; it stops counting where there are far too many."""
    total, count = 0, 0
    for folder in folders:
        for at, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += Path(at, name).lstat().st_blocks * _BLOCK
                count += 1
                if count > _MOST_FILES:
                    return total, count
    return total, count
