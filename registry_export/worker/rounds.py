"""What a worker does while nobody waits for it: verify stored exports again.

Exports that could run nowhere yet and can here are finished at once, and everything promoted is verified anew when a
schedule says so. One version at a time, and only when there is no job to claim: a promotion waits for one
verification at most. Each is a job that its worker holds from the first moment, so that no other one takes it
up whose machine lacks the runtime.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from registry_export.entities import ModelVersionRef, Status, TargetResult
from registry_export.errors import RegistryError, RegistryExportError
from registry_export.ledger import SETTLED, VERIFY, History, Job, Promotions, Verifications
from registry_export.page import TAG_PREFIX, read_report
from registry_export.replay import RUNS_HERE
from registry_export.scratch import Scratch
from registry_export.worker.job import JobRunner
from registry_export.worker.parts import Parts, worker_name

BY_RUNTIME = f"{VERIFY}:runtime"
"""The trigger of a verification because its runtime is here and was not where the export was made."""

BY_SCHEDULE = f"{VERIFY}:schedule"
"""The trigger of a verification because its time has come."""

_PAUSE_S = 30.0
_MOST_LOOKS = 10

_logger = logging.getLogger(__name__)


class Rounds:
    """Finds what is to be verified again, and does it.

    Args:
        parts: What the worker works with.
        runner: Runs the jobs.
        every_s: After so many seconds a promoted version is verified again; None: never.
    """

    def __init__(self, parts: Parts, runner: JobRunner, every_s: float | None = None) -> None:
        self._parts = parts
        self._runner = runner
        self._every_ms = None if every_s is None else round(every_s * 1000)
        self._promotions = Promotions(parts.ledger.database, parts.workspace)
        self._verifications = Verifications(parts.ledger.database, parts.workspace)
        self._telling = frozenset(name for name, format_ in parts.formats.items() if hasattr(format_, "runs_here"))
        # The settled job of each version that was the newest when it was looked at: nothing changes without another.
        self._looked: dict[ModelVersionRef, int] = {}
        self._empty: dict[ModelVersionRef, int] = {}
        self._next_look = 0.0
        self._now_ms: int | None = None

    def take_up(self, *, once: bool = False) -> bool:
        """Verify one version where there is one to verify; whether there may be more to do.

        Args:
            once: Only what was due when this began: the worker ends when there is nothing left.

        Raises:
            RegistryUnavailableError: The server does not answer.
            LedgerUnavailableError: The ledger does not answer.
        """
        if (not self._telling and self._every_ms is None) or time.monotonic() < self._next_look:
            return False
        if not once or self._now_ms is None:
            self._now_ms = self._promotions.now_ms()
        histories = self._verifications.histories()
        promoted = {promotion.model_version for promotion in self._promotions.all()}
        for looks, (ref, variants, trigger) in enumerate(self._candidates(histories, promoted)):
            if trigger and (job := self._begin(ref, variants, trigger)) is not None:
                self._runner.run(job)
                if self._parts.ledger.get(job.id).state in SETTLED:
                    self._looked[ref] = job.id  # what it could not run after all is not tried for ever
                return True
            if looks >= _MOST_LOOKS:
                return True  # after a look at the jobs
        self._next_look = time.monotonic() + _PAUSE_S
        return False

    def _candidates(
        self, histories: Mapping[ModelVersionRef, History], promoted: set[ModelVersionRef]
    ) -> Iterator[tuple[ModelVersionRef, tuple[str, ...], str]]:
        """Yield versions with what to verify of them, and why; without a reason where looking has shown none."""
        for ref in sorted({*histories, *promoted} if self._telling else (), key=str):
            history = histories.get(ref, History())
            if not history.active and self._looked.get(ref) != history.latest_job:
                self._looked[ref] = history.latest_job
                variants = self._runnable(ref)
                yield ref, variants, BY_RUNTIME if variants else ""
        for ref in self._due(histories, promoted):
            if self._empty.get(ref) != histories.get(ref, History()).latest_job:
                has_exports = self._has_exports(ref)
                if not has_exports:
                    self._empty[ref] = histories.get(ref, History()).latest_job
                yield ref, (), BY_SCHEDULE if has_exports else ""

    def _begin(self, ref: ModelVersionRef, variants: tuple[str, ...], trigger: str) -> Job | None:
        targets, workspace = ",".join(variants), self._parts.workspace
        return self._parts.ledger.begin(
            ref, trigger, worker_name(), self._parts.lease_s, targets=targets, workspace=workspace
        )

    # What this machine can run, and another could not.

    def _runnable(self, ref: ModelVersionRef) -> tuple[str, ...]:
        try:
            if not any(line.startswith(Status.UNVERIFIED) for line in self._variant_tags(ref)):
                return ()
            report = read_report(self._parts.registry, ref)
        except RegistryError as error:
            return self._passed_over(ref, error)
        found = []
        for result in report.targets if report is not None else ():
            verification = result.verification
            absent = verification is not None and verification.absent and result.status is Status.UNVERIFIED
            if absent and self._runs_here(result):
                found.append(result.variant)
        return tuple(found)

    def _runs_here(self, result: TargetResult) -> bool:
        """Ask an export's format, in a child with its toolchain, whether this machine can run it."""
        if result.format not in self._telling or result.description is None:
            return False
        toolchain = self._parts.formats[result.format].toolchain
        arguments = {"format": result.format, "description": result.description}
        try:
            with Scratch() as folder:
                why_not = self._parts.pool.call(toolchain, RUNS_HERE, arguments, folder).value
        except RegistryExportError as error:
            why_not = str(error)
        if why_not:
            _logger.debug("%s cannot be verified here: %s", result.variant, why_not)
        return not why_not

    # What is due.

    def _due(
        self, histories: Mapping[ModelVersionRef, History], promoted: set[ModelVersionRef]
    ) -> list[ModelVersionRef]:
        """Return the promoted versions whose time has come, those first that were verified longest ago."""
        if self._every_ms is None:
            return []
        since = (self._now_ms or 0) - self._every_ms
        known = {ref: histories.get(ref, History()) for ref in promoted}
        due = [ref for ref, history in known.items() if not history.active and history.verified_ms <= since]
        return sorted(due, key=lambda ref: (known[ref].verified_ms, str(ref)))

    def _has_exports(self, ref: ModelVersionRef) -> bool:
        try:
            return bool(self._variant_tags(ref))
        except RegistryError as error:
            return bool(self._passed_over(ref, error))

    def _variant_tags(self, ref: ModelVersionRef) -> tuple[str, ...]:
        """Return the tags of a version that each speak of one export."""
        tags = self._parts.registry.glance(ref).tags
        ours = {name.removeprefix(TAG_PREFIX): line for name, line in tags.items() if name.startswith(TAG_PREFIX)}
        return tuple(line for variant, line in ours.items() if variant.partition("-")[0] in self._parts.formats)

    def _passed_over(self, ref: ModelVersionRef, error: RegistryError) -> tuple[str, ...]:
        """One version that the registry refuses to show is no reason to leave out the others."""
        if error.transient:
            raise error
        _logger.info("%s is not verified again: %s", ref, error)
        return ()
