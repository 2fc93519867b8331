"""Who hears of what a worker does: nobody, until somebody wants metrics and a health check."""

from __future__ import annotations

from collections.abc import Collection

from registry_export.entities import ExportReport
from registry_export.ledger import Job, JobState
from registry_export.reporter import Reporter

LEDGER, OUTBOX, REGISTRY = "ledger", "outbox", "registry"
"""What a worker talks to."""


class Observer:
    """Hears of the worker's turns and of its jobs, possibly from several threads at once. Override what you need."""

    def turned(self) -> None:
        """The loop went round, or the heartbeat of a running job did: the worker lives."""

    def reached(self, part: str) -> None:
        """The ledger, the outbox or the registry has answered."""

    def claimed(self, job: Job) -> None:
        """An attempt begins."""

    def exported(self, report: ExportReport, variants: Collection[str]) -> None:
        """An export was published; `variants` are those that were asked for, the report may have more."""

    def left(self, job: Job, state: JobState | None) -> None:
        """An attempt has ended, and the job stands so; None: another worker has it."""

    def delivered(self, outcome: str) -> None:
        """A webhook's delivery was answered."""

    def steps(self, reporter: Reporter) -> Reporter:
        """Return who hears of an export's steps, and tells `reporter` of them."""
        return reporter


NOBODY = Observer()
