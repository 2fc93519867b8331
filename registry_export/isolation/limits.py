"""What one child may use, and how much it uses."""

from __future__ import annotations

import contextlib
import math
import time
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


_SEARCH_SECONDS = 0.5


class Resident:
    """The resident memory of a process and its descendants, asked for again and again.

    Descendants are looked for among all processes of the machine, which takes milliseconds: twice a second at most.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: list[psutil.Process] = []
        self._searched = -math.inf

    def bytes_now(self) -> int:
        """Return the sum in bytes; 0 when the process is gone."""
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
        return total
