"""Calls of one export's children: each waits for its place, and what it took is told and remembered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_export.admission import Admission
from registry_export.costs import Expectations, StepCost
from registry_export.errors import ChildKilledError, StepTooLargeError
from registry_export.format import Toolchain
from registry_export.isolation import TRIES, Limits, Outcome
from registry_export.pools import Pool
from registry_export.reporter import ChildRun, Reporter
from registry_export.scratch import remove_tree
from registry_export.starts import Starts


@dataclass(frozen=True)
class PlacedChildren:
    """The children of one step of an export.

    Attributes:
        pool: Runs them.
        queue: Gives them their places.
        starts: Starts their warm parents.
        expected: What steps take.
        reporter: Hears when one ends.
        step: What is done: `convert`, `verify`, ...
        variant: For which target; empty where it serves all of them.
        work: The step's name in what is learnt.
        seconds: How long the longest chain takes that begins with this step; None: the step itself.
        effort: As for `Expectations.of`.
    """

    pool: Pool
    queue: Admission
    starts: Starts
    expected: Expectations
    reporter: Reporter
    step: str
    variant: str
    work: str
    seconds: float | None = None
    effort: float = 1.0

    @property
    def limits(self) -> Limits:
        """The pool's."""
        return self.pool.limits

    def call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> Outcome:
        """Wait for a place, and run a function in a fresh child; in another one where somebody kills that.

        Args:
            toolchain: As for `ChildPool.call`, as all others.
            function: Which.
            arguments: Its argument.
            work: An empty folder.
            limits: In place of the pool's.
            reads: What else it may read.
            writes: Where else it may write; empty folders.

        Raises:
            StepTooLargeError: What it needs does not fit this machine.
            RegistryExportError: As for `ChildPool.call`.
        """
        self._check_fits(limits or self.pool.limits)
        for _ in range(TRIES - 1):
            try:
                return self._call(toolchain, function, arguments, work, limits, reads, writes)
            except ChildKilledError as error:
                self.reporter.note(f"{' '.join(filter(None, (self.step, self.variant)))} is begun again: {error}")
                for folder in (work, *writes):
                    _empty(folder)
        return self._call(toolchain, function, arguments, work, limits, reads, writes)

    def _call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None,
        reads: Sequence[Path],
        writes: Sequence[Path],
    ) -> Outcome:
        self.starts.ensure(toolchain, self.seconds or 0.0, self.pool.cancelled)
        cost = self.expected.of(self.work, self.effort)
        seconds = cost.seconds if self.seconds is None else self.seconds
        outcome: Outcome | None = None
        with self.queue.place(seconds, cost.peak_bytes, self.pool.cancelled) as core:
            began = time.monotonic()
            try:
                expected = StepCost(seconds, cost.peak_bytes, cost.times)
                outcome = self.pool.call(toolchain, function, arguments, work, limits, reads, writes, expected)
            finally:
                ended = time.monotonic()
                # What comes before the call itself is the start of its toolchain.
                started = began if outcome is None else ended - outcome.seconds
                peak = outcome.peak_bytes if outcome is not None else None
                run = ChildRun(self.step, self.variant, toolchain.name, core, began, started, ended, peak, cost.seconds)
                self.reporter.child_ended(run)
        self.expected.learn(self.work, outcome.seconds, outcome.peak_bytes)
        return outcome

    def _check_fits(self, limits: Limits) -> None:
        least = self.expected.size_bytes
        if least > limits.memory:
            raise StepTooLargeError(
                f"It needs {least / 1e9:.1f} GB of memory at the least, and {limits.memory / 1e9:.1f} GB may be used "
                "on this machine: it was not begun.",
                remedy="Run a worker on a larger machine, or raise REGISTRY_EXPORT_CHILD_MEMORY where it is set.",
            )


def _empty(folder: Path) -> None:
    """Leave nothing in a folder of what a child has left there, which may be anything."""
    remove_tree(folder)
    folder.mkdir()
