"""Progress goes to a reporter whose methods are empty until somebody wants to hear of it."""

from __future__ import annotations


class Reporter:
    """Hears of every step of an export, possibly from several threads at once. Override what you need."""

    def step_started(self, step: str, variant: str) -> None:
        """A step began.

        Args:
            step: What is done: `download`, `reference`, `convert`, `verify`, `time`, `publish`, `check files`.
            variant: For which target; empty where the step serves all of them.
        """

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        """A step ended; `outcome` is a word or a short sentence, `seconds` its wall time."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""


SILENT = Reporter()
