"""Warm parents by toolchain: started on first need or ahead of it, shared by calls, stopped when nobody needs them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from registry_export.errors import ChildError, ChildKilledError, ExportCancelledError, RegistryExportError
from registry_export.format import Toolchain
from registry_export.isolation.warm import PARENT, Key, WarmParent, key_of
from registry_export.isolation.watch import kill_descent
from registry_export.machine import cores
from registry_export.scratch import Scratch

TRIES = 3
"""So many times something is begun that somebody kills: by then it is likely to be why."""


_log = logging.getLogger(__name__)


class WarmParents:
    """The warm parents of one pool. Safe to use from several threads.

    Attributes:
        cancelled: Set while nothing is to be started.
    """

    parent_module = PARENT

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._scratch = Scratch()
        self._parents: dict[Key, WarmParent] = {}
        self._starting: list[WarmParent] = []
        self._locks: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._closed = False
        self._warming: ThreadPoolExecutor | None = None

    def __iter__(self) -> Iterator[WarmParent]:
        """Go through those that were started, and may have ended."""
        with self._lock:
            parents = tuple(self._parents.values())
        return iter(parents)

    @property
    def folder(self) -> Path:
        """Where they lie as long as this is not closed."""
        return self._scratch.path

    @contextmanager
    def using(self, toolchain: Toolchain) -> Iterator[WarmParent]:
        """Give a toolchain's running parent, which is not stopped meanwhile; it is started on first need.

        Raises:
            ChildCrashedError: The toolchain cannot be imported.
        """
        parent = self._taken(toolchain)
        try:
            yield parent
        finally:
            self._release(parent)

    def start(self, toolchain: Toolchain) -> WarmParent:
        """Start a toolchain's warm parent where it does not run, and wait until it takes calls.

        Raises:
            ChildCrashedError: The toolchain cannot be imported.
        """
        with self.using(toolchain) as parent:
            return parent

    def runs(self, toolchain: Toolchain) -> bool:
        """Whether a toolchain's warm parent runs."""
        with self._lock:
            parent = self._parents.get(key_of(toolchain))
        return parent is not None and parent.alive

    def cancel(self) -> None:
        """Start none any more; those that still start are ended, and who waits for one hears `ExportCancelledError`."""
        self.cancelled.set()
        with self._lock:
            for starting in self._starting:
                starting.process.kill()

    def kill(self) -> None:
        """End every parent and all below it without a word, those that still start too."""
        with self._lock:
            parents = [*self._starting, *self._parents.values()]
        for parent in parents:
            kill_descent(parent.process.pid)

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        """Start the parents of toolchains in the background, in this order, as many at a time as there are cores.

        Those that run already stay; a call that needs one meanwhile waits for it. One that cannot be started is an
        error of the call that needs it.
        """
        with self._lock:
            if self._closed:
                return
            self._warming = self._warming or ThreadPoolExecutor(cores(), thread_name_prefix="warm")
            for toolchain in toolchains:
                self._warming.submit(self._warm, toolchain)

    def _warm(self, toolchain: Toolchain) -> None:
        try:
            self.start(toolchain)
        except RegistryExportError as error:
            _log.info("the warm parent of %s could not be started ahead of its use: %s", toolchain.name, error)

    def stop_idle(self, seconds: float) -> None:
        """Stop parents that have not been used for so long; the next call starts a new one."""
        with self._lock:
            now = time.monotonic()
            idle = [n for n, p in self._parents.items() if p.active == 0 and now - p.last_used > seconds]
            parents = [self._parents.pop(name) for name in idle]
        if parents:
            freed = sum(parent.ready.resident_bytes for parent in parents if parent.ready is not None)
            names = ", ".join(parent.toolchain.name for parent in parents)
            _log.info("not used for %.0f s, so stopped: the warm parents of %s, %.0f MB", seconds, names, freed / 1e6)
        for parent in parents:
            parent.stop()

    def close(self) -> None:
        """Stop every parent and remove their folder."""
        with self._lock:
            self._closed = True
        self.cancel()
        if self._warming is not None:
            self._warming.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            parents, self._parents = list(self._parents.values()), {}
        for parent in parents:
            parent.let_go()  # all at once: some take a second to leave
        for parent in parents:
            parent.stop()
        self._scratch.remove()

    def _taken(self, toolchain: Toolchain) -> WarmParent:
        """Return the running parent of a toolchain, counted as in use; it is started on first need."""
        key = key_of(toolchain)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                parent = self._parents.get(key)
                if parent is not None and parent.alive:
                    parent.active += 1
                    return parent
                self._count += 1
                folder = self._scratch.path / str(self._count)
            folder.mkdir(mode=0o700)
            fresh = self._started_or_fallback(toolchain, folder)
            with self._lock:
                self._parents[key] = fresh
                fresh.active += 1
            return fresh

    def _release(self, parent: WarmParent) -> None:
        with self._lock:
            parent.active -= 1
            parent.last_used = time.monotonic()

    def _started_or_fallback(self, toolchain: Toolchain, folder: Path) -> WarmParent:
        """Start a parent; where that is not possible, that of the toolchain's fallback."""
        try:
            return self._started(toolchain, folder)
        except ChildError as error:
            if toolchain.fallback is None or self._closed:
                raise
            _log.warning("%s is used in place of %s: %s", toolchain.fallback.name, toolchain.name, error)
        (folder / "fallback").mkdir(mode=0o700)
        return self._started(toolchain.fallback, folder / "fallback")

    def _started(self, toolchain: Toolchain, folder: Path) -> WarmParent:
        for number in range(TRIES):
            place = folder / str(number)
            place.mkdir(mode=0o700)
            parent = WarmParent(toolchain, place, self.parent_module)
            with self._lock:
                self._starting.append(parent)
                if self.cancelled.is_set():
                    parent.process.kill()
            try:
                parent.await_ready()
            except ChildKilledError as error:
                if self.cancelled.is_set():
                    raise ExportCancelledError("The export was stopped.") from error
                if number == TRIES - 1:
                    raise
            except BaseException:
                if parent.alive:  # who waited was interrupted, and nobody else knows of it
                    kill_descent(parent.process.pid)
                parent.stop()
                raise
            else:
                return parent
            finally:
                with self._lock:
                    self._starting.remove(parent)
        raise AssertionError("the last try returns or raises")
