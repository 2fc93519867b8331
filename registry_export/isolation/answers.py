"""What a child's end means: its answer, or the error that says how it ended."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path

import msgspec

from registry_export import errors
from registry_export.errors import (
    ChildCrashedError,
    ChildError,
    ChildKilledError,
    ChildOutOfMemoryError,
    DiskFullError,
    RegistryExportError,
)
from registry_export.isolation.limits import Limits
from registry_export.isolation.protocol import ANSWER_BYTES, ANSWER_FILE, LOG_FILE, Answer, Ended, Failure

_LOG_LINES = 20
_FULL = os.strerror(errno.ENOSPC)
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)

_OF_CHILDREN = (
    errors.ConfigurationError,
    errors.SourceError,
    errors.SamplesError,
    errors.PlanError,
    errors.ConversionError,
    errors.VerificationError,
    errors.EvaluationError,
)
"""What a child may say: of leases, servers and cancelling it knows nothing."""


def read_answer(ended: Ended, work: Path, limits: Limits) -> Answer:
    """Read what a child left in its work folder.

    Raises:
        ChildCrashedError: It ended by a signal, or left without an answer; `ChildKilledError` where nothing in it
            raises that signal.
        ChildOutOfMemoryError: An allocation in it failed.
        RegistryExportError: What its function raised; outside our tree, a `ChildError` that names it.
    """
    path = work / ANSWER_FILE
    if ended.exit_code < 0:
        raise with_log(_ended_by_signal(-ended.exit_code), work)
    if ended.exit_code > 0 or not path.is_file() or path.is_symlink():
        raise with_log(ChildCrashedError(f"It left with exit status {ended.exit_code} and no answer."), work)
    if path.stat().st_size > ANSWER_BYTES:
        raise ChildError(f"Its answer is larger than {ANSWER_BYTES} bytes.")
    try:
        answer = msgspec.json.decode(path.read_bytes(), type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChildError("Its answer cannot be read.") from error
    if answer.failure is not None:
        raise _raised(answer.failure, limits)
    return answer


def _ended_by_signal(number: int) -> ChildCrashedError:
    try:
        name = signal.Signals(number).name
    except ValueError:  # one of the numbers that have no name
        name = f"signal {number}"
    if number in _FROM_OUTSIDE:
        hint = " The system may have run out of memory." if number == signal.SIGKILL else ""
        return ChildKilledError(f"It was killed with {name}.{hint}")
    return ChildCrashedError(f"It crashed with {name}.")


def _raised(failure: Failure, limits: Limits) -> RegistryExportError:
    """Build the exception that a child's failure stands for, with the child's traceback as its cause."""
    if failure.type in ("MemoryError", "bad_alloc") or "can't allocate memory" in failure.message:
        error: RegistryExportError = out_of_memory(limits, "An allocation in it failed")
    elif _FULL in failure.message:
        error = DiskFullError("No space was left for what it writes.", remedy="Free some where TMPDIR is.")
    else:
        kind = getattr(errors, failure.type, None)
        if isinstance(kind, type) and issubclass(kind, _OF_CHILDREN):
            error = kind(failure.message, remedy=failure.remedy, step=failure.step)
        else:
            error = ChildError(f"{failure.type}: {failure.message}")
    error.__cause__ = ChildError(failure.traceback)
    return error


def out_of_memory(limits: Limits, what: str) -> ChildOutOfMemoryError:
    """Build the error for a limit that was reached; `what` says how it showed."""
    return ChildOutOfMemoryError(
        f"{what}: the memory limit is {limits.memory / 1e9:.1f} GB.",
        remedy="Raise REGISTRY_EXPORT_CHILD_MEMORY if the machine has more.",
    )


def with_log(error: RegistryExportError, work: Path) -> RegistryExportError:
    """Chain the last lines that a child printed to an error, and return it."""
    log = tail(work / LOG_FILE, _LOG_LINES)
    if log:
        error.__cause__ = ChildError(f"The child's last lines:\n{log}")
    return error


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a file that are not blank; empty when it cannot be read."""
    try:
        with open(path, "rb", opener=_opened) as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _opened(path: str, flags: int) -> int:
    """Open a plain file that somebody else has left: a link is not followed, and a pipe not waited for."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("It is no plain file.")
    return descriptor
