"""Warm parents as steps of an export: each is started once, on a core of its own, by whoever needs it first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

from registry_export.admission import Admission
from registry_export.errors import ExportCancelledError, RegistryExportError
from registry_export.format import Toolchain
from registry_export.pools import Pool
from registry_export.reporter import ChildRun, Reporter

_SECONDS = 5.0
_MEMORY = 1_000_000_000
"""What a start is expected to take: TensorFlow's and PyTorch's imports are the longest and the largest."""


@dataclass
class Starts:
    """The starts of one export. Safe to use from several threads.

    Attributes:
        pool: Has the parents.
        queue: Gives the starts their places.
        reporter: Hears of each.
    """

    pool: Pool
    queue: Admission
    reporter: Reporter
    _under_way: dict[str, Future[None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure(self, toolchain: Toolchain, seconds: float, cancelled: threading.Event) -> None:
        """Wait until a toolchain's parent runs; who waits for another's start takes no core meanwhile.

        Args:
            toolchain: Which.
            seconds: What depends on it, as for `Admission.place`.
            cancelled: When set, nobody waits for a place any longer.

        Raises:
            ChildCrashedError: It cannot be imported.
            ExportCancelledError: `cancelled` was set.
        """
        while not self.pool.runs(toolchain):
            with self._lock:
                key = repr(toolchain)
                future = self._under_way.get(key)
                mine = future is None
                if future is None:
                    future = self._under_way[key] = Future()
            try:
                if mine:
                    self._run(key, future, toolchain, seconds, cancelled)
                else:
                    future.result()
            except ExportCancelledError:
                if mine or cancelled.is_set():
                    raise  # else whoever was about to start it has given up, and it is our turn

    def _run(
        self, key: str, future: Future[None], toolchain: Toolchain, seconds: float, cancelled: threading.Event
    ) -> None:
        try:
            self._start(toolchain, seconds, cancelled)
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            future.set_result(None)
        finally:
            with self._lock:
                del self._under_way[key]  # it may be stopped, and needed again

    def _start(self, toolchain: Toolchain, seconds: float, cancelled: threading.Event) -> None:
        with self.queue.place(seconds + _SECONDS, _MEMORY, cancelled) as core:
            began = time.monotonic()
            try:
                self.pool.start(toolchain)
            finally:
                ended = time.monotonic()
                name = toolchain.name
                self.reporter.child_ended(ChildRun("start", name, name, core, began, began, ended, None, _SECONDS))


class EarlyStarts:
    """Starts parents on cores that have nothing else to do yet. Leaves no thread behind as a context manager.

    Args:
        starts: Starts them.
        toolchains: Those that will be needed, the most urgent first.
    """

    def __init__(self, starts: Starts, toolchains: Sequence[Toolchain]) -> None:
        self._starts = starts
        self._waiting = deque(toolchains)
        self._stop = threading.Event()
        self._free = min(starts.queue.cores - 1, len(self._waiting))
        self._executor = ThreadPoolExecutor(max_workers=max(self._free, 1), thread_name_prefix="start")

    def __enter__(self) -> EarlyStarts:
        for _ in range(self._free):
            self._executor.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.enough()
        self._executor.shutdown(wait=True)

    def enough(self) -> None:
        """Begin with no other: from now on whoever needs one starts it."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set() and not self._starts.pool.cancelled.is_set():
            try:
                self._starts.ensure(self._waiting.popleft(), 0.0, self._stop)
            except (IndexError, ExportCancelledError):
                return
            except RegistryExportError:
                continue  # whoever needs it hears of it
