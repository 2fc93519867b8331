"""Where a promotion's time goes, from the trace that its worker wrote (Chrome's format)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

_MICROSECONDS = 1e6
_SHOWN_CHILDREN = 12
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Trace:
    """One export's steps.

    Attributes:
        steps: Each a name (`convert onnx`), a kind (`convert`), a beginning and an end in seconds.
        moving_cpu_s: Processor time that the worker's threads took to store files.
    """

    steps: tuple[tuple[str, str, float, float], ...]
    moving_cpu_s: float = 0.0

    @classmethod
    def of(cls, folder: Path, name: str, version: int) -> Trace:
        """Read a version's first trace, which converts; it is written a moment after the status is final.

        Raises:
            FileNotFoundError: There is none.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not (found := list(folder.glob(f"{name}-{version}-*.json"))):
            if time.monotonic() > deadline:
                raise FileNotFoundError(f"{folder} has no trace of {name}/{version}.")
            time.sleep(0.05)
        first = min(found, key=lambda path: path.stat().st_mtime)
        events = msgspec.json.decode(first.read_bytes())["traceEvents"]
        return cls(
            tuple(
                (event["name"], event["cat"], event["ts"] / _MICROSECONDS, (event["ts"] + event["dur"]) / _MICROSECONDS)
                for event in events
                if event["ph"] == "X"
            ),
            sum(event["args"]["cpu_seconds"] for event in events if event.get("cat") == "upload"),
        )

    @property
    def covered_s(self) -> float:
        """Seconds in which a child ran or started, or a file was moved, counted once however many did."""
        covered, until = 0.0, 0.0
        for _, _, began, ended in sorted(self.steps, key=lambda step: step[2]):
            covered += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return covered

    def by_kind(self) -> Mapping[str, float]:
        """Sum the seconds of each kind of step."""
        seconds: dict[str, float] = defaultdict(float)
        for _, kind, began, ended in self.steps:
            seconds[kind] += ended - began
        return seconds

    def longest(self) -> Iterable[tuple[str, float]]:
        """Return the longest steps, the longest first."""
        return sorted(((name, ended - began) for name, _, began, ended in self.steps), key=lambda step: -step[1])


def profile(trace: Trace, whole_s: float) -> Iterator[str]:
    """Write a trace as a table, line by line.

    Args:
        trace: What was measured.
        whole_s: Seconds from the promotion to the published verdict.
    """
    yield "| kind of step | seconds, added up over the cores | of the whole |"
    yield "|---|---|---|"
    for kind, seconds in sorted(trace.by_kind().items(), key=lambda item: -item[1]):
        yield f"| {kind} | {seconds:.2f} | {100 * seconds / whole_s:.0f} % |"
    idle = whole_s - trace.covered_s
    ours = "none of these: until the worker looks, planning, hashing, reports, the ledger"
    yield f"| {ours} | {idle:.2f} | {100 * idle / whole_s:.0f} % |"
    yield ""
    longest = [f"{name} {seconds:.2f} s" for name, seconds in trace.longest()][:_SHOWN_CHILDREN]
    yield f"The longest steps: {', '.join(longest)}."
