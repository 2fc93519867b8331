"""The supervisor's side: warm parents by toolchain, and calls with their limits watched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from registry_export import errors
from registry_export.errors import (
    ChildCrashedError,
    ChildError,
    ChildOutOfMemoryError,
    ChildTimeoutError,
    ExportCancelledError,
    RegistryExportError,
)
from registry_export.format import Toolchain
from registry_export.isolation.protocol import (
    ANSWER_BYTES,
    ANSWER_FILE,
    LOG_FILE,
    Answer,
    Call,
    Ended,
    Failure,
    Started,
)

_T = TypeVar("_T")

ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""What a child may know of its surroundings; credentials and addresses are not on the list."""

_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
_WATCH_SECONDS = 0.05
_START_SECONDS = 300.0
_LOG_LINES = 20


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


@dataclass(frozen=True)
class Outcome:
    """What came home from a child: its value as JSON, its warnings, seconds and peak memory in bytes."""

    value: Any
    warnings: tuple[str, ...]
    seconds: float
    peak_bytes: int


class _WarmParent:
    """One running parent and the socket on which it takes calls."""

    def __init__(self, toolchain: Toolchain, folder: Path) -> None:
        self.toolchain = toolchain
        self.last_used = time.monotonic()
        self.active = 0
        self._address = str(folder / "socket")
        listener = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(self._address)
            listener.listen(64)
            environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
            environment |= _QUIET | {"HOME": str(folder), "TMPDIR": str(folder)} | dict(toolchain.environment)
            self._log = (folder / "parent.log").open("wb")
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "registry_export.isolation.parent",
                    str(listener.fileno()),
                    *toolchain.modules,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[listener.fileno()],
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self._folder = folder
        self._await_ready()

    def _await_ready(self) -> None:
        assert self.process.stdout is not None
        timer = threading.Timer(_START_SECONDS, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if line.strip() != b"ready":
            self.process.wait()
            raise ChildCrashedError(
                f"The toolchain {self.toolchain.name} ({', '.join(self.toolchain.modules)}) cannot be imported: "
                f"{_tail(self._folder / 'parent.log', 1) or 'no message'}.",
                remedy="Check the installation with `registry-export formats`.",
            )

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        return connection

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


class ChildPool:
    """Runs functions in children, each forked from the warm parent of its toolchain.

    Safe to use from several threads. Close it, or use it as a context manager, so that no process stays.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.cancelled = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="registry-export-"))
        self._parents: dict[_Key, _WarmParent] = {}
        self._locks: dict[_Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._count = 0

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
    ) -> Outcome:
        """Run a function in a fresh child and wait for its answer.

        Args:
            toolchain: Names the warm parent; it is started on first need.
            function: `package.module:name` of a function of one argument.
            arguments: That argument; JSON, with dataclasses allowed.
            work: An existing folder: the child's working folder.
            limits: In place of the pool's.

        Raises:
            ChildCrashedError: It ended by a signal, or left without an answer.
            ChildTimeoutError: It ran past its time limit and was killed.
            ChildOutOfMemoryError: It went past its memory limit and was killed, or an allocation failed.
            ExportCancelledError: `cancel` was called.
            RegistryExportError: What the function itself raised; outside our tree, a `ChildError` that names it.
        """
        limits = limits or self.limits
        call = Call(function, msgspec.to_builtins(arguments), str(work), limits.memory)
        (work / ANSWER_FILE).unlink(missing_ok=True)
        parent = self._parent(toolchain)
        started = time.monotonic()
        try:
            with parent.connect() as connection:
                connection.sendall(msgspec.json.encode(call) + b"\n")
                ended = self._watch(connection, limits, work)
        except (ConnectionError, FileNotFoundError) as error:
            raise ChildCrashedError(f"The warm parent of {toolchain.name} ended during a call.") from error
        finally:
            with self._lock:
                parent.active -= 1
                parent.last_used = time.monotonic()
        answer = _read_answer(ended, work, limits)
        return Outcome(answer.value, answer.warnings, time.monotonic() - started, ended.peak_bytes)

    def cancel(self) -> None:
        """Make every running and future call raise `ExportCancelledError`."""
        self.cancelled.set()

    def stop_idle(self, seconds: float) -> None:
        """Stop parents that have not been used for so long; the next call starts a new one."""
        with self._lock:
            now = time.monotonic()
            idle = [n for n, p in self._parents.items() if p.active == 0 and now - p.last_used > seconds]
            parents = [self._parents.pop(name) for name in idle]
        for parent in parents:
            parent.stop()

    def close(self) -> None:
        """Stop every parent and remove the pool's folder."""
        self.cancel()
        with self._lock:
            parents, self._parents = list(self._parents.values()), {}
        for parent in parents:
            parent.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _parent(self, toolchain: Toolchain) -> _WarmParent:
        key = _key(toolchain)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                parent = self._parents.get(key)
                if parent is not None and parent.alive:
                    parent.active += 1
                    return parent
                self._count += 1
                folder = self._folder / str(self._count)
            folder.mkdir(mode=0o700)
            fresh = _WarmParent(toolchain, folder)
            with self._lock:
                self._parents[key] = fresh
                fresh.active += 1
            return fresh

    def _watch(self, connection: socket.socket, limits: Limits, work: Path) -> Ended:
        deadline = time.monotonic() + limits.timeout_s
        lines = _Lines(connection)
        pid = lines.wait(Started, _START_SECONDS).pid
        while True:
            ended = lines.poll(Ended, _WATCH_SECONDS)
            if ended is not None:
                return ended
            problem = self._breach(pid, deadline, limits)
            if problem is not None:
                _kill_group(pid)
                lines.wait(Ended, _START_SECONDS)
                raise _with_log(problem, work)

    def _breach(self, pid: int, deadline: float, limits: Limits) -> RegistryExportError | None:
        if self.cancelled.is_set():
            return ExportCancelledError("The export was stopped.")
        if time.monotonic() > deadline:
            return ChildTimeoutError(
                f"It did not end within {limits.timeout_s:g} s and was killed.",
                remedy="Raise REGISTRY_EXPORT_CHILD_TIMEOUT (seconds) if the model needs longer.",
            )
        used = _resident_bytes(pid)
        if used > limits.memory:
            return _out_of_memory(limits, f"It used {used / 1e9:.1f} GB and was killed")
        return None


_Key = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]


def _key(toolchain: Toolchain) -> _Key:
    """Two packages may call different toolchains by one name; they get a parent each."""
    return toolchain.name, toolchain.modules, tuple(sorted(toolchain.environment.items()))


class _Lines:
    """Messages of a warm parent on one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def poll(self, kind: type[_T], seconds: float) -> _T | None:
        """Return the next message, or None when none came in time."""
        while b"\n" not in self._buffer:
            self._connection.settimeout(seconds)
            try:
                data = self._connection.recv(65536)
            except TimeoutError:
                return None
            if not data:
                raise ConnectionResetError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return msgspec.json.decode(line, type=kind)

    def wait(self, kind: type[_T], seconds: float) -> _T:
        message = self.poll(kind, seconds)
        if message is None:
            raise ConnectionResetError
        return message


def _read_answer(ended: Ended, work: Path, limits: Limits) -> Answer:
    path = work / ANSWER_FILE
    if ended.exit_code < 0:
        raise _with_log(_ended_by_signal(-ended.exit_code), work)
    if ended.exit_code > 0 or not path.is_file() or path.is_symlink():
        raise _with_log(ChildCrashedError(f"It left with exit status {ended.exit_code} and no answer."), work)
    if path.stat().st_size > ANSWER_BYTES:
        raise ChildError(f"Its answer is larger than {ANSWER_BYTES} bytes.")
    try:
        answer = msgspec.json.decode(path.read_bytes(), type=Answer)
    except msgspec.MsgspecError as error:
        raise ChildError("Its answer cannot be read.") from error
    if answer.failure is not None:
        raise _raised(answer.failure, limits)
    return answer


def _ended_by_signal(number: int) -> ChildCrashedError:
    name = signal.Signals(number).name
    hint = " The system may have run out of memory." if number == signal.SIGKILL else ""
    return ChildCrashedError(f"It crashed with {name}.{hint}")


def _raised(failure: Failure, limits: Limits) -> RegistryExportError:
    """Build the exception that a child's failure stands for, with the child's traceback as its cause."""
    if failure.type in ("MemoryError", "bad_alloc") or "can't allocate memory" in failure.message:
        error: RegistryExportError = _out_of_memory(limits, "An allocation in it failed")
    else:
        kind = getattr(errors, failure.type, None)
        if isinstance(kind, type) and issubclass(kind, RegistryExportError):
            error = kind(failure.message, remedy=failure.remedy, step=failure.step)
        else:
            error = ChildError(f"{failure.type}: {failure.message}")
    error.__cause__ = ChildError(failure.traceback)
    return error


def _out_of_memory(limits: Limits, what: str) -> ChildOutOfMemoryError:
    return ChildOutOfMemoryError(
        f"{what}: the memory limit is {limits.memory / 1e9:.1f} GB.",
        remedy="Raise REGISTRY_EXPORT_CHILD_MEMORY if the machine has more.",
    )


def _with_log(error: RegistryExportError, work: Path) -> RegistryExportError:
    log = _tail(work / LOG_FILE, _LOG_LINES)
    if log:
        error.__cause__ = ChildError(f"The child's last lines:\n{log}")
    return error


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _resident_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
