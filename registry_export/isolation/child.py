"""The forked child: walls first, then the function, then the answer."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from registry_export.errors import RegistryExportError
from registry_export.isolation import sandbox
from registry_export.isolation.namespaces import adopt_orphans
from registry_export.isolation.protocol import ANSWER_FILE, LOG_FILE, Answer, Call, Failure

_PR_SET_PDEATHSIG = 1
_MOST_WARNINGS = 50


def run(call: Call) -> NoReturn:
    """Run a call in this process, which was just forked for it, and leave."""
    status = 1
    try:
        _enter(call)
        answer = _answer(call)
        Path(call.work, ANSWER_FILE).write_bytes(msgspec.json.encode(answer))
        status = 0
    except BaseException:  # noqa: BLE001  nothing may climb back into the parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter(call: Call) -> None:
    """Leave the parent's session, folder, signals and output behind, and take the limits on."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.chdir(call.work)
    log = os.open(Path(call.work, LOG_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    scratch = Path(call.work, "tmp")
    scratch.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = os.environ["HOME"] = str(scratch)
    tempfile.tempdir = None
    if call.data_bytes is not None:
        limit = call.data_bytes + _inherited_data_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    adopt_orphans()
    with contextlib.suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    sandbox.enter(call.room)


def _inherited_data_bytes() -> int:
    """Return the private writable memory that came with the fork, which `RLIMIT_DATA` counts too."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _answer(call: Call) -> Answer:
    inherited = set(sys.modules)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            module, _, name = call.function.partition(":")
            value: Any = getattr(importlib.import_module(module), name)(call.arguments)
            failure = None
        except Exception as error:  # noqa: BLE001  carried home and raised there
            value, failure = None, _failure(error)
    texts = dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught)
    imported = tuple(sorted(set(sys.modules) - inherited))
    return Answer(value=value, failure=failure, warnings=tuple(texts)[:_MOST_WARNINGS], imported=imported)


def _failure(error: Exception) -> Failure:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, RegistryExportError):
        return Failure(type(error).__name__, error.message, error.remedy, error.step, text)
    return Failure(type(error).__name__, str(error), traceback=text)
