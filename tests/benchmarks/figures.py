"""A figure: what a benchmark measured, beside what it may be at most.

A benchmark ends with `Figure(...).record()`. That keeps the figure in `build/benchmarks`, prints it, and fails the
test where it is missed; `python -m tests.benchmarks.table docs/benchmarks.md` makes the page's table of all that are
kept. Take both sides of a ratio in one run, in turns where that can be done: a machine has other work too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil
import pytest

RESULTS = Path("build/benchmarks")


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: Where it is kept, and its place in the table (`tests.benchmarks.table.ORDER`): words joined by hyphens.
        what: What is measured, as the table's first cell says it.
        measured: The number that is judged.
        limit: What it may be at most.
        unit: `s`, `MB`, `%`; empty for a ratio.
        scale: The measured sides behind the number: `22.4 s; the script 151.9 s`.
        baseline: What it is compared with; empty where the number stands for itself.
        how: How it was measured: repetitions, median or best, in turns or not.
        where: Where the time goes, or what limits it, where that is known; Markdown, one line an item. What is missed
            should have it.
        machine: What it ran on; filled in by `record`.
        date: When; filled in by `record`.
    """

    name: str
    what: str
    measured: float
    limit: float
    unit: str = ""
    scale: str = ""
    baseline: str = ""
    how: str = ""
    where: tuple[str, ...] = ()
    machine: str = ""
    date: str = ""

    @property
    def met(self) -> bool:
        """Whether it is within its limit; a number that is none is not."""
        return self.measured <= self.limit

    def said(self) -> str:
        """Say it in a line."""
        verdict = "met" if self.met else "MISSED"
        sides = f" ({self.scale})" if self.scale else ""
        value, limit = number(self.measured, self.unit), number(self.limit, self.unit)
        return f"{self.what}: {value}, at most {limit}: {verdict}{sides}"

    def record(self) -> None:
        """Keep the figure for the page, and fail the test that measured it where it is missed."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        figure = replace(self, machine=self.machine or machine(), date=f"{datetime.now(UTC):%Y-%m-%d}")
        (RESULTS / f"{self.name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(figure)))
        print(f"\n{self.said()}", *(f"  {line}" for line in self.where), sep="\n", flush=True)
        if not self.met:
            pytest.fail(self.said(), pytrace=False)


def record_all(figures: Iterable[Figure]) -> None:
    """Keep several figures of one run; the test fails once all are kept where any is missed."""
    missed = []
    for figure in figures:
        try:
            figure.record()
        except pytest.fail.Exception as failure:
            missed.append(str(failure))
    if missed:
        pytest.fail("\n".join(missed), pytrace=False)


def recorded() -> list[Figure]:
    """Read what is kept."""
    return [msgspec.json.decode(path.read_bytes(), type=Figure) for path in sorted(RESULTS.glob("*.json"))]


def number(value: float, unit: str = "") -> str:
    """Write a number with as many digits as mean something."""
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 or unit else 3
    return f"{value:.{digits}f} {unit}".rstrip()


def machine() -> str:
    """Say what this machine is: processor, cores, memory, Python."""
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{_processor()}, {os.cpu_count()} cores, {memory} GiB, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
