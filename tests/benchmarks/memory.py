"""How much memory processes take: what they have allocated, not the pages of files that they have mapped.

Mapped files are the system's cache: it drops their pages where memory is short, and several processes share them.
`ru_maxrss` counts them, and in a forked process begins at what its parent had. What counts here is anonymous and shared
memory, as `/proc` tells it every 50 ms.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

_EVERY = 0.05


class Peaks:
    """Watches this process's descendants; those that work in one folder are added up.

    Attributes:
        bytes: The most that was taken at a time, by the folder's path.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = defaultdict(int)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._stop.wait(_EVERY):
            now: dict[str, int] = defaultdict(int)
            for process in this.children(recursive=True):
                with contextlib.suppress(OSError):
                    now[str(Path(f"/proc/{process.pid}/cwd").readlink())] += allocated(process.pid)
            for folder, size in now.items():
                self.bytes[folder] = max(self.bytes[folder], size)


def allocated(pid: int) -> int:
    """Return the bytes that a process has allocated; 0 when it is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))
    return 0


def run_raw(code: str, folder: Path, environment: dict[str, str]) -> tuple[int, float]:
    """Run a script in a fresh process.

    Returns:
        The most bytes that it had allocated, and its seconds.

    Raises:
        CalledProcessError: It failed; with what it printed.
    """
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, allocated(process.pid))
            time.sleep(_EVERY)
        log.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, "the raw call", log.read())
    return peak, time.monotonic() - began
