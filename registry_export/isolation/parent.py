"""A warm parent: imports a toolchain once, exercises it where that pays, then forks a child for every call.

Importing a toolchain costs 3 to 25 seconds and converting a small model one. The parent never sees a
checkpoint: it prepares itself, listens, forks and waits, in one thread, so that its forks are safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import msgspec

from registry_export.isolation import child, sandbox
from registry_export.isolation.namespaces import adopt_orphans, leave_the_network
from registry_export.isolation.protocol import Call, Ended, Preparation, Ready, Started

_LINE_BYTES = 16 * 1024 * 1024
_ORPHANS_SECONDS = 10.0
_MOMENT_SECONDS = 0.001
_LIFELINE = 0
"""Standard input is a pipe from the supervisor: when it closes, the supervisor is gone."""


class Parent:
    """The loop over new calls, ended children and the supervisor's lifeline."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: dict[int, socket.socket] = {}
        self._supervisor = os.getppid()
        self._own: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def serve(self) -> None:
        """Serve until the lifeline closes."""
        self._own = _children()  # what a toolchain starts when it is imported is nobody's orphan
        signal.signal(signal.SIGCHLD, _ignore)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_writer.fileno())
        with self._selector as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            selector.register(_LIFELINE, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if _LIFELINE in ready:
                    self._kill_all()
                    return
                if self._wake_reader in ready:
                    self._wake_reader.recv(4096)
                    self._reap()
                if self._listener in ready:
                    self._start()

    def _start(self) -> None:
        connection, _ = self._listener.accept()
        if _peer(connection) not in (self._supervisor, None):
            connection.close()  # a child of ours that found the socket, say
            return
        try:
            call = msgspec.json.decode(_read_line(connection), type=Call)
            pid = os.fork()
        except (msgspec.MsgspecError, OSError) as error:
            # One call that cannot be begun is no reason to end those that run.
            sys.stderr.write(f"A call was refused: {error}\n")
            connection.close()
            return
        if pid == 0:
            for ours in (connection, self._listener, self._wake_reader, self._wake_writer, self._selector):
                ours.close()
            os.close(_LIFELINE)
            os.open(os.devnull, os.O_RDONLY)
            for other in self._connections.values():
                other.close()
            child.run(call)
        self._connections[pid] = connection
        _send(connection, Started(pid))

    def _reap(self) -> None:
        while self._connections:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._connections.pop(pid, None)
            if connection is not None:
                self._kill_orphans()
                cpu = usage.ru_utime + usage.ru_stime
                _send(connection, Ended(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, cpu))
                connection.close()

    def _kill_orphans(self) -> None:
        """End what children have left behind, in whatever group or session: nothing works on after its call."""
        end = time.monotonic() + _ORPHANS_SECONDS
        while (orphans := _children() - self._connections.keys() - self._own) and time.monotonic() < end:
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(_MOMENT_SECONDS)

    def _kill_all(self) -> None:
        for pid in self._connections:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._connections = {}
        self._kill_orphans()


def _children() -> set[int]:
    """List this process's children, those too that it adopted; none where the system does not tell."""
    with contextlib.suppress(OSError):
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    return set()


def _peer(connection: socket.socket) -> int | None:
    """Return the process at the other end; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _ignore(number: int, frame: types.FrameType | None) -> None:
    """Let SIGCHLD write to the wake-up socket; the default action would not."""


def _read_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.readline(_LINE_BYTES)


def _send(connection: socket.socket, message: object) -> None:
    try:
        connection.sendall(msgspec.json.encode(message) + b"\n")
    except BrokenPipeError:
        return  # the supervisor gave the call up


def main(listener_fd: int, preparation: Preparation) -> None:
    """Import and exercise the toolchain, say so by one line on standard output, and serve.

    The line says which walls children get, too.
    """
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who stops a worker and all it has started means the worker
    _end_with_supervisor(True)
    listener = socket.socket(fileno=listener_fd)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints goes to the log
    walls = (*sandbox.walls(), *([sandbox.NETWORK] if leave_the_network() else []))
    adopt_orphans()
    problems = prepare(preparation)
    parent = Parent(listener)
    # What is there now is never garbage: no collection of a child walks it, and so copies its pages.
    gc.collect()
    gc.freeze()
    ready = Ready(time.monotonic() - began, _resident_bytes(), _count_threads(), problems, tuple(walls))
    with output:
        output.write(msgspec.json.encode(ready) + b"\n")
    _end_with_supervisor(False)
    parent.serve()


def _end_with_supervisor(on: bool) -> None:
    """Let the kernel end this process when its lifeline closes: Python sees nothing during an import of 20 seconds."""
    flags = fcntl.fcntl(_LIFELINE, fcntl.F_GETFL)
    fcntl.fcntl(_LIFELINE, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_LIFELINE, fcntl.F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)
    if on and select.select([_LIFELINE], [], [], 0)[0]:
        sys.exit("The supervisor is gone.")


def prepare(preparation: Preparation) -> tuple[str, ...]:
    """Import, then exercise; returns why exercises failed.

    Raises:
        ImportError: A module of the toolchain cannot be imported.
    """
    for module in preparation.modules:
        importlib.import_module(module)
    for module in preparation.late:
        with contextlib.suppress(ImportError):  # a child that needs it says what is missing
            importlib.import_module(module)
    problems = []
    for function in preparation.exercises:
        module, _, name = function.partition(":")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                getattr(importlib.import_module(module), name)()
        except Exception as error:  # noqa: BLE001  a child can do without: it is slower
            problems.append(f"{function}: {type(error).__name__}: {error}")
    return tuple(problems)


def _count_threads() -> int:
    """Count the threads that are there at a fork; those of OpenBLAS end before one, by a handler of its own."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return threading.active_count()


def _resident_bytes() -> int:
    """Return this process's resident memory; where /proc is not, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Preparation))
