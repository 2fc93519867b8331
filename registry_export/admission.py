"""Who may run now: a place is a core with the memory that its step is expected to take.

Threads are cheap and wait here; cores and memory are what is scarce. Of those that wait the one goes first on which
the longest work depends; one that does not fit beside what runs is overtaken by others, but not for ever.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from registry_export.errors import ExportCancelledError
from registry_export.machine import available_bytes, cores

_GATHER_S = 0.005
"""Between a change and the next choice: the steps that it made possible have queued up by then."""

_LOOK_S = 0.5
"""Between two looks at whether a person has cancelled, which ends what runs: whoever waits hears of the free place."""

_MOST_OVERTAKEN = 8
_KEPT_FREE = 0.9
"""Of the memory that is available: peaks are expectations."""


@dataclass(eq=False)
class _Ticket:
    seconds: float
    memory: int
    overtaken: int = 0
    core: int | None = None


@dataclass
class Admission:
    """The queue of one export's steps. Safe to use from many threads.

    Attributes:
        cores: How many places there are.
        available: Tells the memory in bytes that is free; asked whenever nothing runs.
    """

    cores: int = field(default_factory=cores)
    available: Callable[[], int] = available_bytes
    _waiting: list[_Ticket] = field(default_factory=list)
    _running: dict[int, _Ticket] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _mine: threading.local = field(default_factory=threading.local)
    _capacity: int = 0
    _decide_at: float = 0.0

    @contextlib.contextmanager
    def place(self, seconds: float, memory: int, cancelled: threading.Event) -> Iterator[int]:
        """Wait for a place and hold it.

        Args:
            seconds: How long the longest chain of steps takes that begins with this one; the longest goes first.
            memory: What the step takes at its peak, in bytes. One that runs alone gets its place whatever it takes.
            cancelled: When set, nobody waits any longer.

        Yields:
            The core's number, from 0; no two that hold a place have the same.

        Raises:
            ExportCancelledError: `cancelled` was set while it waited.
        """
        ticket = _Ticket(seconds, memory)
        began = time.monotonic()
        core = self._wait(ticket, cancelled)
        self._mine.waited = self.waited + time.monotonic() - began
        try:
            yield core
        finally:
            with self._changed:
                del self._running[core]
                self._decide_at = time.monotonic() + _GATHER_S
                self._changed.notify_all()

    @property
    def waited(self) -> float:
        """The seconds that the calling thread has waited here, all in all."""
        return float(getattr(self._mine, "waited", 0.0))

    def _wait(self, ticket: _Ticket, cancelled: threading.Event) -> int:
        with self._changed:
            if not self._running and not self._waiting:
                self._decide_at = time.monotonic() + _GATHER_S
            self._waiting.append(ticket)
            try:
                while True:
                    self._choose()
                    if ticket.core is not None:
                        return ticket.core
                    if cancelled.is_set():
                        raise ExportCancelledError("The export was stopped.")
                    until = self._decide_at - time.monotonic()
                    self._changed.wait(until if until > 0 else _LOOK_S)
            finally:
                if ticket.core is None:
                    self._waiting.remove(ticket)

    def _choose(self) -> None:
        """Give the free places away."""
        while self._waiting and len(self._running) < self.cores and time.monotonic() >= self._decide_at:
            ticket = self._next()
            if ticket is None:
                return
            ticket.core = next(number for number in range(self.cores) if number not in self._running)
            self._running[ticket.core] = ticket
            self._waiting.remove(ticket)
            self._changed.notify_all()

    def _next(self) -> _Ticket | None:
        """Return the first that fits; those before it, which do not, have been overtaken once more."""
        if not self._running:
            self._capacity = int(self.available() * _KEPT_FREE)
        left = self._capacity - sum(ticket.memory for ticket in self._running.values())
        passed: list[_Ticket] = []
        for ticket in sorted(self._waiting, key=lambda waiting: -waiting.seconds):
            if ticket.memory <= left or not self._running:
                for other in passed:
                    other.overtaken += 1
                return ticket
            if ticket.overtaken >= _MOST_OVERTAKEN:
                return None
            passed.append(ticket)
        return None
