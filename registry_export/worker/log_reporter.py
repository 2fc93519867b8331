"""The steps of a worker's export, as lines of its log."""

from __future__ import annotations

import logging

from registry_export.entities import ModelVersionRef
from registry_export.errors import ExportCancelledError
from registry_export.pools import Pool
from registry_export.reporter import Reporter

_logger = logging.getLogger(__name__)


class LogReporter(Reporter):
    """Writes a line to the log for every step that ends, and lets a cancelled export publish nothing.

    Args:
        ref: The version that is exported.
        pool: The pool whose cancellation is the export's.
    """

    def __init__(self, ref: ModelVersionRef, pool: Pool) -> None:
        self._ref = ref
        self._pool = pool

    def step_started(self, step: str, variant: str) -> None:
        """Stop before the steps in which no child would notice the cancellation."""
        if step in ("download", "publish") and not variant and self._pool.cancelled.is_set():
            raise ExportCancelledError("The export was stopped.", step=step)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        """Log the step."""
        fields = {"step": step, "variant": variant, "status": _word(outcome), "seconds": round(seconds, 3)}
        name = " ".join(filter(None, (step, variant)))
        _logger.info("%s: %s  %s (%.1f s)", self._ref, name, outcome, seconds, extra=fields)

    def note(self, text: str) -> None:
        """Log the note."""
        _logger.info("%s: %s", self._ref, text)


def _word(outcome: str) -> str:
    """Return the word of a step's outcome that filters can rely on; a step that ended with a number is done."""
    word = outcome.partition(" ")[0].rstrip(":,")
    return word if word.isalpha() else "done"
