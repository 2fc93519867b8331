"""What one child may use, and how much it uses."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes:
        timeout_s: Wall time in seconds, the toolchain's import not included.
        memory_bytes: Resident memory of the child and its descendants; None: four fifths of the machine's.
    """

    timeout_s: float = 1800.0
    memory_bytes: int | None = None

    @property
    def memory(self) -> int:
        """The limit in bytes."""
        return self.memory_bytes or int(psutil.virtual_memory().total * 0.8)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, in bytes; 0 when it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total
