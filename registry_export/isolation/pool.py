"""The supervisor's side of a call: what a child is told, its limits watched, its answer checked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from registry_export.costs import StepCost
from registry_export.errors import (
    ChildCrashedError,
    ChildError,
    ChildKilledError,
    DiskFullError,
    ExportCancelledError,
)
from registry_export.format import Toolchain
from registry_export.isolation.answers import read_answer, with_log
from registry_export.isolation.leavings import check_leavings
from registry_export.isolation.limits import Limits
from registry_export.isolation.parents import WarmParents
from registry_export.isolation.protocol import ANSWER_FILE, Call, Ended, Started
from registry_export.isolation.sandbox import Room
from registry_export.isolation.warm import START_SECONDS, Lines, WarmParent
from registry_export.isolation.watch import Watch, kill_descent
from registry_export.machine import available_bytes, cores

_WATCH_SECONDS = 0.1
_NO_SPACE = 1 << 20
"""Bytes: on a disk with fewer, a child that left without an answer could not write it."""


_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome:
    """What came home from a child.

    Attributes:
        value: Its answer, as JSON.
        warnings: What it was warned of.
        seconds: Wall time of the call.
        peak_bytes: Its peak memory.
        cpu_seconds: What it and its children computed, in core seconds.
        imported: Modules that it imported itself: what its warm parent could have had, and its author's code.
    """

    value: Any
    warnings: tuple[str, ...]
    seconds: float
    peak_bytes: int
    cpu_seconds: float = 0.0
    imported: tuple[str, ...] = ()

    def of(self, kind: type[_T]) -> _T:
        """Return the answer as a record.

        Raises:
            ChildError: It is none: the code that answered was not ours.
        """
        try:
            return msgspec.convert(self.value, kind)
        except (msgspec.ValidationError, RecursionError) as error:
            raise ChildError(f"Its answer cannot be understood: {error}.") from error


@dataclass(frozen=True)
class Watched:
    """What a running call is watched for: its limits, where it writes and how much, and whether it is still wanted."""

    limits: Limits
    folders: Sequence[Path]
    disk: int
    given_up: Callable[[], bool]


class ChildPool:
    """Runs functions in children, each forked from the warm parent of its toolchain.

    Safe to use from several threads. Close it, or use it as a context manager, so that no process stays.

    Attributes:
        cancelled: Set while every call is to raise `ExportCancelledError`.
        killed: How many children were killed at each limit, by `Watch.limit`.
    """

    def __init__(self, limits: Limits | None = None, parents: WarmParents | None = None) -> None:
        self.limits = limits or Limits()
        self.killed = dict.fromkeys(("time", "memory", "processes", "disk"), 0)
        self._parents = parents or WarmParents()
        self.cancelled = self._parents.cancelled
        self._lock = threading.Lock()

    def __enter__(self) -> ChildPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
        expected: StepCost | None = None,  # noqa: ARG002  this machine's places are given by `Admission`
        given_up: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Run a function in a fresh child and wait for its answer.

        Args:
            toolchain: Names the warm parent; it is started on first need.
            function: `package.module:name` of a function of one argument.
            arguments: That argument; JSON, with dataclasses allowed.
            work: An existing folder: the child's working folder, in which it may write.
            limits: In place of the pool's.
            reads: What else it may read, beside its toolchain.
            writes: Where else it may write; what is there.
            expected: What it takes; of use where a call is placed by it.
            given_up: Asked again and again whether this call alone is to end.

        Raises:
            ChildCrashedError: It ended by a signal, or left without an answer; `ChildKilledError` where somebody
                killed it, or its parent.
            ChildTimeoutError: It ran past its time limit and was killed.
            ChildOutOfMemoryError: It went past its memory limit and was killed, or an allocation failed.
            ExportCancelledError: `cancel` was called, or the call was given up.
            RegistryExportError: What the function itself raised; outside our tree, a `ChildError` that names it.
        """
        limits = limits or self.limits
        folders = (work, *writes)
        disk = limits.disk(work)
        if not disk:
            raise DiskFullError(f"No space is left on the disk of {work.parent}.", remedy="Set TMPDIR to another disk.")
        room = Room(tuple(map(str, reads)), tuple(map(str, folders)), disk, limits.cpu_s, limits.tasks)
        call = Call(function, msgspec.to_builtins(arguments), str(work), limits.memory, room)
        (work / ANSWER_FILE).unlink(missing_ok=True)
        message = msgspec.json.encode(call) + b"\n"
        with self._parents.using(toolchain) as parent:
            started = time.monotonic()
            try:
                with parent.connect() as connection:
                    connection.sendall(message)
                    ended = self._watch(connection, Watched(limits, folders, disk, given_up))
            except (ConnectionError, FileNotFoundError) as error:
                if self.cancelled.is_set():
                    raise ExportCancelledError("The export was stopped.") from error
                raise ChildKilledError(f"The warm parent of {toolchain.name} ended during a call.") from error
        try:
            answer = read_answer(ended, work, limits)
        except ChildCrashedError as error:
            if psutil.disk_usage(str(work)).free < _NO_SPACE:
                raise DiskFullError("No space was left for its answer.", remedy="Free some where TMPDIR is.") from error
            raise
        check_leavings(folders, disk)
        seconds = time.monotonic() - started
        return Outcome(answer.value, answer.warnings, seconds, ended.peak_bytes, ended.cpu_seconds, answer.imported)

    def start(self, toolchain: Toolchain) -> WarmParent:
        """Start a toolchain's warm parent where it does not run, and wait until it takes calls.

        Raises:
            ChildCrashedError: The toolchain cannot be imported.
        """
        return self._parents.start(toolchain)

    def runs(self, toolchain: Toolchain) -> bool:
        """Whether a toolchain's warm parent runs."""
        return self._parents.runs(toolchain)

    def parents(self) -> tuple[tuple[str, int], ...]:
        """Return the toolchain and the process number of every warm parent that runs."""
        return tuple((parent.toolchain.name, parent.process.pid) for parent in self._parents if parent.alive)

    def check(self) -> None:
        """Do nothing: this machine is there."""

    def walls(self, toolchain: Toolchain) -> tuple[str, ...]:
        """Name the walls that stand around a toolchain's children here; its parent is started for that."""
        return self.start(toolchain).walls

    @property
    def cores(self) -> int:
        """The cores that are ours on this machine."""
        return cores()

    def available_bytes(self) -> int:
        """Return the memory that could be given to processes of this machine now."""
        return available_bytes()

    def sweep(self) -> None:
        """Do nothing: no file is brought to anywhere."""

    def cancel(self) -> None:
        """Make every running and future call raise `ExportCancelledError`; parents that still start are ended."""
        self._parents.cancel()

    def renew(self) -> None:
        """Take calls again after a cancellation."""
        self.cancelled.clear()

    def kill(self) -> None:
        """End every process of the pool without a word, before this one is left."""
        self._parents.kill()

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        """Start the parents of toolchains in the background; see `WarmParents.warm`."""
        self._parents.warm(toolchains)

    def stop_idle(self, seconds: float) -> None:
        """Stop parents that have not been used for so long; the next call starts a new one."""
        self._parents.stop_idle(seconds)

    def close(self) -> None:
        """Stop every parent and remove the pool's folder."""
        self._parents.close()

    def _watch(self, connection: socket.socket, call: Watched) -> Ended:
        lines = Lines(connection)
        pid = lines.wait(Started, START_SECONDS).pid
        watch = Watch(pid, call.limits, call.folders, call.disk)
        try:
            while (ended := lines.poll(Ended, _WATCH_SECONDS)) is None:
                if (problem := watch.breach()) is not None:
                    with self._lock:
                        self.killed[watch.limit] += 1
                if self.cancelled.is_set() or call.given_up():
                    problem = ExportCancelledError("The export was stopped.")
                if problem is not None:
                    kill_descent(pid)
                    lines.wait(Ended, START_SECONDS)
                    raise with_log(problem, call.folders[0])
        except BaseException:
            kill_descent(pid)  # nothing runs on unwatched
            raise
        return ended
