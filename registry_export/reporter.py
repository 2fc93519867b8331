"""Progress goes to a reporter whose methods are empty until somebody wants to hear of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChildRun:
    """One child on its core; times are `time.monotonic`'s, in seconds.

    Attributes:
        step: What was done: `reference`, `convert`, `verify`, `diagnose`, `time`.
        variant: For which target; empty where it served all of them.
        toolchain: The warm parent's.
        core: The place that it held, from 0.
        began: When it got its place.
        started: When its call began; until then its warm parent was started or awaited.
        ended: When its place was free again.
        peak_bytes: Resident memory at its peak; None where it failed.
        expected_seconds: What the call was expected to take.
    """

    step: str
    variant: str
    toolchain: str
    core: int
    began: float
    started: float
    ended: float
    peak_bytes: int | None
    expected_seconds: float


class Reporter:
    """Hears of every step of an export, possibly from several threads at once. Override what you need."""

    def step_started(self, step: str, variant: str) -> None:
        """A step began.

        Args:
            step: What is done: `download`, `reference`, `convert`, `verify`, `upload`, `time`, `publish`,
                `check files`.
            variant: For which target; empty where the step serves all of them.
        """

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        """A step ended; `outcome` is a word or a short sentence, `seconds` its time without that in the queue."""

    def child_ended(self, run: ChildRun) -> None:
        """A child left its core."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


SILENT = Reporter()
