"""One export as a trace in Chrome's format, which https://ui.perfetto.dev and chrome://tracing show.

Each core is a lane with the children that ran on it and the starts of their toolchains; the registry has one lane
for downloads and publishing, and one for files that are stored beside the conversions.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from registry_export.reporter import ChildRun, Reporter

_REGISTRY, _UPLOADS, _FIRST_CORE = 1, 2, 3
_LANES = {
    "download": _REGISTRY,
    "check files": _REGISTRY,
    "publish": _REGISTRY,
    "upload": _UPLOADS,
}
"""The steps that no child runs, and where they are shown; of the others their children are."""

_SHORTEST_START_S = 0.02
_MICROSECONDS = 1e6

_log = logging.getLogger(__name__)


@dataclass
class Timeline(Reporter):
    """Hears of an export's steps, keeps when and where each ran, and passes everything on.

    Attributes:
        reporter: Who hears of it too.
        began: `time.monotonic` at the trace's zero.
    """

    reporter: Reporter = field(default_factory=Reporter)
    began: float = field(default_factory=time.monotonic)
    _events: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def step_started(self, step: str, variant: str) -> None:
        """Remember when a step of ours began."""
        with self._lock:
            self._open[step, variant] = time.monotonic(), time.thread_time()
        self.reporter.step_started(step, variant)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        """Keep a step of ours."""
        with self._lock:
            began = self._open.pop((step, variant), None)
        if step in _LANES and began is not None:
            cpu = round(time.thread_time() - began[1], 4)  # a step begins and ends in one thread
            name, now = f"{step} {variant}".strip(), time.monotonic()
            self._add(_LANES[step], name, step, began[0], now, outcome=outcome, cpu_seconds=cpu)
        self.reporter.step_finished(step, variant, outcome, seconds)

    def child_ended(self, run: ChildRun) -> None:
        """Keep a child, and the start of its toolchain where that took time."""
        lane, started = _FIRST_CORE + run.core, run.began
        if run.started - run.began > _SHORTEST_START_S:
            started = run.started
            self._add(lane, f"start {run.toolchain}", "start", run.began, started)
        details = {"toolchain": run.toolchain, "expected_seconds": round(run.expected_seconds, 2)}
        if run.peak_bytes is not None:
            details["peak_megabytes"] = round(run.peak_bytes / 1e6)
        self._add(lane, f"{run.step} {run.variant}".strip(), run.step, started, run.ended, **details)
        self.reporter.child_ended(run)

    def note(self, text: str) -> None:
        """Pass a note on."""
        self.reporter.note(text)

    def write(self, path: Path) -> None:
        """Write the trace.

        Args:
            path: The file; its folder is made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            events = [*self._lanes(), *self._events]
        path.write_bytes(msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": events}))

    def _add(self, lane: int, name: str, kind: str, began: float, ended: float, **details: object) -> None:
        # Both ends are rounded alike: what follows at once does not begin within what it follows.
        at, end = (round((moment - self.began) * _MICROSECONDS) for moment in (began, ended))
        event = {
            "name": name,
            "cat": kind,
            "ph": "X",
            "pid": 1,
            "tid": lane,
            "ts": at,
            "dur": end - at,
            "args": details,
        }
        with self._lock:
            self._events.append(event)

    def _lanes(self) -> Iterator[dict[str, Any]]:
        yield {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "registry-export"}}
        for lane in sorted({event["tid"] for event in self._events}):
            name = {_REGISTRY: "registry", _UPLOADS: "uploads"}.get(lane, f"core {lane - _FIRST_CORE}")
            yield {"name": "thread_name", "ph": "M", "pid": 1, "tid": lane, "args": {"name": name}}
            yield {"name": "thread_sort_index", "ph": "M", "pid": 1, "tid": lane, "args": {"sort_index": lane}}


@contextlib.contextmanager
def traced(reporter: Reporter, folder: Path | None, name: str) -> Iterator[Reporter]:
    """Keep a trace of an export while it runs, and write it when it ends, however that is.

    Args:
        reporter: Who hears of its steps anyway.
        folder: Where the trace is written; None: there is none.
        name: What was exported; the file's name begins with it.

    Yields:
        The reporter to export with.
    """
    if folder is None:
        yield reporter
        return
    timeline = Timeline(reporter)
    moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    try:
        yield timeline
    finally:
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{moment}.json"
        try:
            timeline.write(path)
        except OSError as error:
            _log.warning("The trace %s could not be written: %s", path, error)
