"""What one child may use, and how much it uses."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from registry_export.machine import total_bytes

_SHARE = 0.8
_THREADS, _THREADS_A_CORE = 1024, 32


@dataclass(frozen=True)
class Limits:
    """What one child may use.

    Attributes:
        timeout_s: Wall time in seconds, the toolchain's import not included.
        memory_bytes: Resident memory of the child and its descendants; None: four fifths of the machine's.
        disk_bytes: What it may write; None: four fifths of what is free.
        processes: How many it may be at a time, with its descendants.
    """

    timeout_s: float = 1800.0
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    processes: int = 256

    @property
    def memory(self) -> int:
        """The limit in bytes."""
        return self.memory_bytes or int(total_bytes() * _SHARE)

    def disk(self, folder: Path) -> int:
        """Return the limit in bytes of what may be written, on the disk that a folder is on."""
        return self.disk_bytes or int(psutil.disk_usage(str(folder)).free * _SHARE)

    @property
    def tasks(self) -> int:
        """How many processes and threads the kernel lets it have; libraries start one a core, several times over."""
        return self.processes + _THREADS + _THREADS_A_CORE * (os.cpu_count() or 1)

    @property
    def cpu_s(self) -> int:
        """Processor time in seconds that one process cannot use up before its wall time is over."""
        return math.ceil(self.timeout_s * (os.cpu_count() or 1)) + 1
