"""A warm parent as the supervisor sees it: started, connected to, stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import TypeVar

import msgspec

from registry_export.errors import ChildCrashedError, ChildKilledError
from registry_export.format import PythonEnvironment, Toolchain
from registry_export.isolation.answers import tail
from registry_export.isolation.environments import python_of
from registry_export.isolation.packages import link_packages
from registry_export.isolation.protocol import Preparation, Ready

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

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
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""What a child may know of its surroundings; credentials and addresses are not on the list."""

_CALM = {
    # A thread that waits for the others of its pool spins by default: with several children on the same cores most
    # of what is spent is that, and what is waited for comes later (a ResNet's verification: 6.7 s of CPU, 1.3 asleep).
    "OMP_WAIT_POLICY": "PASSIVE",
    # NumPy's OpenBLAS spins too, and cannot be told to sleep. Children run side by side anyway.
    "OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 4)),
}
"""How a child waits, unless the surroundings say otherwise."""

_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

PARENT = "registry_export.isolation.parent"
"""What a warm parent runs."""

SHARED = Preparation(
    late=tuple(f"registry_export.{name}" for name in ("conversion", "reference", "replay", "latency", "tracing")),
    exercises=("registry_export.discovery:discover_formats",),
)
"""What every child would import itself: the functions that children are called for, and the formats."""

_LONGEST_LINE = 1024 * 1024

START_SECONDS = 300.0
"""How long a toolchain may take to be imported, and a parent to answer."""


class WarmParent:
    """One running parent and the socket on which it takes calls."""

    def __init__(self, toolchain: Toolchain, folder: Path, module: str = PARENT) -> None:
        self.toolchain = toolchain
        self.last_used = time.monotonic()
        self.active = 0
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._close_folder = weakref.finalize(self, os.close, descriptor)
        self._address = _address(folder, descriptor)
        listener = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind(self._address)
            listener.listen(64)
            environment = _CALM | {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
            environment |= _QUIET | {"HOME": str(folder), "TMPDIR": str(folder)} | dict(toolchain.environment)
            python = sys.executable
            if toolchain.python is not None:
                python = str(python_of(toolchain.python))
                environment["PYTHONPATH"] = str(_linked_packages(folder))
            preparation = Preparation(
                (*SHARED.late, *toolchain.late),
                toolchain.modules,
                (*SHARED.exercises, *filter(None, [toolchain.exercise])),
            )
            self._log = (folder / "parent.log").open("wb")
            self.process = subprocess.Popen(
                [
                    python,
                    "-P",
                    "-m",
                    module,
                    str(listener.fileno()),
                    msgspec.json.encode(preparation).decode(),
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
        self.ready: Ready | None = None

    def await_ready(self) -> None:
        """Wait until it takes calls.

        Raises:
            ChildCrashedError: Its toolchain cannot be imported.
        """
        self.ready = self._read_ready()
        self._tell(self.ready)

    def _read_ready(self) -> Ready:
        assert self.process.stdout is not None
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        began = time.monotonic()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            if self.process.wait() == -signal.SIGKILL and time.monotonic() - began < START_SECONDS:
                raise ChildKilledError(f"The warm parent of {self.toolchain.name} was killed while it started.")
            raise ChildCrashedError(
                f"The toolchain {self.toolchain.name} ({', '.join(self.toolchain.modules)}) cannot be imported: "
                f"{tail(self._folder / 'parent.log', 1) or 'no message'}.",
                remedy="Check the installation with `registry-export formats`.",
            )
        return msgspec.json.decode(line, type=Ready)

    @property
    def walls(self) -> tuple[str, ...]:
        """Names of the walls that stand around its children; it must be ready."""
        return self.ready.walls if self.ready is not None else ()

    def _tell(self, ready: Ready) -> None:
        name = self.toolchain.name
        size = ready.resident_bytes / 1e6
        fields = {"seconds": round(ready.seconds, 3)}
        _log.info("the warm parent of %s took %.1f s, %.0f MB", name, ready.seconds, size, extra=fields)
        if ready.threads > 1:
            _log.info("the warm parent of %s has %d threads, of which children inherit one", name, ready.threads)
        for problem in ready.problems:
            _log.warning("the toolchain %s could not be exercised, its conversions take longer: %s", name, problem)

    def connect(self) -> socket.socket:
        """Open a connection for one call."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        return connection

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def let_go(self) -> None:
        """Tell it to end, and its children with it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def stop(self) -> None:
        """End it, and its children with it."""
        self.let_go()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._close_folder()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _address(folder: Path, descriptor: int) -> str:
    """Return how a socket in a folder is named: of 107 bytes at most, and a temporary folder's path may be longer.

    Args:
        folder: Where the socket is.
        descriptor: The open folder, by which Linux names it in few letters, within this process.
    """
    if sys.platform != "linux":
        return str(folder / "socket")
    return f"/proc/self/fd/{descriptor}/socket"


def _linked_packages(folder: Path) -> Path:
    packages = folder / "packages"
    packages.mkdir()
    link_packages(packages)
    return packages


Key = tuple[str, tuple[str, ...], tuple[str, ...], str, tuple[tuple[str, str], ...], PythonEnvironment | None]


def key_of(toolchain: Toolchain) -> Key:
    """Two packages may call different toolchains by one name; they get a parent each."""
    environment = tuple(sorted(toolchain.environment.items()))
    imports = toolchain.modules, toolchain.late
    return toolchain.name, *imports, toolchain.exercise, environment, toolchain.python


class Lines:
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
            if len(self._buffer) > _LONGEST_LINE:
                raise ConnectionResetError
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # not the parent's own words
            raise ConnectionResetError from None

    def wait(self, kind: type[_T], seconds: float) -> _T:
        """Return the next message; none in time counts as a broken connection."""
        message = self.poll(kind, seconds)
        if message is None:
            raise ConnectionResetError
        return message
