"""A promotion that was missed: what its version has not is found, and an export is queued once for the same lack."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from registry_export.entities import Status
from registry_export.errors import RegistryError, RegistryExportError
from registry_export.ledger import WAITING, Job, JobState, Ledger, OutboxReader, Promotion, Promotions
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG
from registry_export.page import publish_failure
from registry_export.registry import Registry, VersionInfo
from registry_export.wants import LacksFiles, Wants

_logger = logging.getLogger(__name__)

PREFIX = "reconciled:"
"""How the trigger of a job begins that was queued here."""


class Missed:
    """Compares single promotions with what is exported, and queues.

    Args:
        registry: What is published; it is told of what is queued.
        ledger: What was asked for, and where jobs are queued.
        promotions: What is remembered of promotions.
        wants: What the rules ask for.
        outbox: The hook's rows, moved before a promotion counts as missed; None where there is no hook.
        workspace: The MLflow workspace to work in.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        promotions: Promotions,
        wants: Wants,
        outbox: OutboxReader | None,
        workspace: str | None,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._promotions = promotions
        self._wants = wants
        self._outbox = outbox
        self._workspace = workspace
        self._began_ms = 0
        self._looked_at: list[Promotion] = []  # what will be remembered

    def begin(self) -> None:
        """Begin a sweep: the registry is read anew from here on."""
        self._began_ms = self._promotions.now_ms()
        self._wants.begin()

    def note(self, promotions: Iterable[Promotion]) -> None:
        """Keep of promotions, until they are remembered, that they were looked at."""
        self._looked_at += promotions

    def remember(self) -> None:
        """Write down what was looked at since this was done last."""
        looked_at, self._looked_at = self._looked_at, []
        # The last word on each.
        self._promotions.put_all({(old.model_version, old.promotion): old for old in looked_at}.values())

    def compare(self, info: VersionInfo, promotion: Promotion, lacks_files: LacksFiles | None = None) -> bool:
        """Compare one promotion; one that the registry refuses to show is no reason to leave out the others."""
        try:
            return self._queue_if_missing(info, promotion, lacks_files)
        except RegistryError as error:
            if error.transient:
                raise
            _logger.warning("%s could not be compared: %s", info.ref, error)
            self._looked_at.append(promotion)
            return False

    def _queue_if_missing(self, info: VersionInfo, promotion: Promotion, lacks_files: LacksFiles | None) -> bool:
        """Queue an export for a promotion if something that its rule asks for is missing; whether one was."""
        missing = self._wants.missing(info, promotion.promotion, lacks_files)
        unsettled = info.tags.get(STATUS_TAG) in (Status.QUEUED, Status.RUNNING)
        if not missing and not unsettled:
            self._looked_at.append(replace(promotion, missing=""))
            return False
        if self._outbox is not None:
            # The registry was read before this: whatever the hook wrote about it is in the ledger from here on.
            self._ledger.drain_outbox(self._outbox)
        jobs = self._ledger.list(ref=info.ref, workspaces=(self._workspace,))
        latest = _latest(jobs, promotion.promotion)
        if any(_is_active(job) or _updated_ms(job) >= self._began_ms for job in jobs):
            queue = False  # an export is under way, or came to its end since the registry was read
        elif latest is not None and latest.state is not JobState.DONE:
            queue = False  # given up, or cancelled: a person's turn
            if unsettled:
                self._say_why(latest)
        else:
            # Without a job, or with one whose export is not whole any more; once for the same lack.
            queue = latest is None or (bool(missing) and promotion.missing != digest(missing))
        if queue:
            self._queue(info, promotion)
        self._promotions.put(replace(promotion, missing=digest(missing)) if queue else promotion)
        return queue

    def _queue(self, info: VersionInfo, promotion: Promotion) -> None:
        # First the tag: once the job is there, a worker may be faster than we are.
        trigger = f"{PREFIX}{promotion.promotion}"
        self._registry.set_tags(info.ref, {TRIGGER_TAG: trigger, STATUS_TAG: Status.QUEUED})
        self._ledger.enqueue(
            info.ref,
            trigger,
            workspace=self._workspace,
            previous_status=info.tags.get(STATUS_TAG),
        )
        fields = {"model_version": str(info.ref), "trigger": trigger}
        _logger.info("%s: queued, because %s has no complete export.", info.ref, promotion.promotion, extra=fields)

    def _say_why(self, job: Job) -> None:
        """Say on the version's page what its worker could not say when it gave up."""
        publish_failure(self._registry, job.model_version, job.trigger, RegistryExportError(job.error))


def _is_active(job: Job) -> bool:
    return job.state in (*WAITING, JobState.RUNNING)


def _latest(jobs: tuple[Job, ...], promotion: str) -> Job | None:
    """Return the newest job for this promotion, however it was found, that was not set aside."""
    found = (job for job in jobs if job.trigger.removeprefix(PREFIX) == promotion)
    return next((job for job in found if job.state is not JobState.IGNORED), None)


def _updated_ms(job: Job) -> int:
    return round(job.updated_at.timestamp() * 1000)


def digest(words: Collection[str]) -> str:
    """Return SHA-256, in hex, of words in any order."""
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()
