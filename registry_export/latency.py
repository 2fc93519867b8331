"""How long one call takes, inside a child: of the source and of an export in the same way, so that they compare.

What is controlled: the inputs (the example), a child of its own with nothing else in it, a warm-up, the median
and the 90th percentile over many calls, and that no conversion of ours runs beside it. What is not: how many threads a
runtime takes, which is its own decision and therefore counted, and what else the machine does meanwhile.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Latency
from registry_export.inference import Origin
from registry_export.tensors import read_tensors

TIMED = f"{__name__}:timed"
"""The name of the function below, as a child is called."""

_WARM_UP_S, _MOST_WARM_UPS = 0.2, 20
_WINDOW_S, _MOST_CALLS = 0.5, 1000
_ENOUGH, _LONGEST_S = 10, 5.0
"""With fewer calls there is no percentile; a slow model gets this long to make so many."""

_BUSY = 0.1
"""The share of what the busiest thread computed that another one must have computed to count."""

_THREADS = Path("/proc/self/task")


@dataclass(frozen=True)
class LatencyRequest:
    """What is timed: a checkpoint or an artifact, and the folder of its inputs."""

    origin: Origin
    inputs: str


def timed(arguments: Any) -> Latency:
    """Load a model and time its calls."""
    request = msgspec.convert(arguments, LatencyRequest)
    request.origin.enter()
    format_ = format_named(discover_formats(), request.origin.format)
    inputs = {name: np.array(array) for name, array in read_tensors(Path(request.inputs)).items()}
    with request.origin.open(format_) as runner:
        return measure(lambda: runner.infer(inputs))


def measure(call: Callable[[], object]) -> Latency:
    """Time a call: warm up, then take the median and the 90th percentile of as many as fit into half a second.

    Args:
        call: Runs the model once.
    """
    began, count = time.perf_counter(), 0
    while count < 1 or (count < _MOST_WARM_UPS and time.perf_counter() - began < _WARM_UP_S):
        call()
        count += 1
    collects = gc.isenabled()
    gc.disable()
    try:
        before = _cpu_times()
        times = _times(call)
        threads = _busy_threads(before, _cpu_times())
    finally:
        if collects:
            gc.enable()
    return Latency(
        median_ms=_quantile(times, 0.5),
        p90_ms=_quantile(times, 0.9) if len(times) >= _ENOUGH else None,
        runs=len(times),
        threads=threads,
    )


def _times(call: Callable[[], object]) -> list[float]:
    """Return the milliseconds of one call after another."""
    times: list[float] = []
    began = now = time.perf_counter()
    while not times or (
        len(times) < _MOST_CALLS and now - began < (_WINDOW_S if len(times) >= _ENOUGH else _LONGEST_S)
    ):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        times.append((now - start) * 1e3)
    return times


def _quantile(times: Sequence[float], share: float) -> float:
    """Return the smallest time that this share of the calls does not exceed."""
    return sorted(times)[max(0, math.ceil(share * len(times)) - 1)]


def _cpu_times() -> dict[str, int]:
    """Return the nanoseconds that each thread of this process has computed; empty where Linux does not tell."""
    found = {}
    for thread in _THREADS.glob("*"):
        try:
            found[thread.name] = int((thread / "schedstat").read_text().split()[0])
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    return found


def _busy_threads(before: Mapping[str, int], after: Mapping[str, int]) -> int | None:
    """Count the threads that really computed; a runtime's settings would tell what it may take, not what it took."""
    spent = [now - before.get(thread, 0) for thread, now in after.items()]
    return sum(own >= _BUSY * max(spent) for own in spent) if spent else None
