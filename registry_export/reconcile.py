"""The reconciler: compare what is promoted with what has been exported, and queue what is missing.

It works through the registry's REST API alone: where no hook can be installed it is the trigger, elsewhere the
safety net. It finds stage changes, aliases and copies, whenever they happened, and exports that were deleted by hand.

What it costs grows with what changed. MLflow lists versions by their latest update, and a stage change is one. Aliases
come with the registered models, one call for a thousand of them. A few promotions, those longest not
looked at, are looked at anew in each sweep.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from registry_export.config import Configuration, requested_targets
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ConfigurationError, ModelVersionNotFoundError, RegistryError, RegistryExportError
from registry_export.format import Format
from registry_export.ledger import WAITING, Job, JobState, Ledger, OutboxReader, Promotion, Promotions
from registry_export.outbox import STATUS_TAG, UNPROMOTED_STAGES, VERIFIED_ALIAS_SUFFIX, copied_from
from registry_export.publishing import TAG_PREFIX, publish_failure
from registry_export.registry import EXPORTS_FOLDER, Registry, VersionInfo

_logger = logging.getLogger(__name__)

PREFIX = "reconciled:"
# A promotion takes its time from a server's clock before it commits: look back far enough to see it.
_OVERLAP_MS = 120_000
_LOOK_AGAIN = 10
_TARGETS_TAG_IS_WRONG = "?"


class Reconciler:
    """Compares and queues.

    Args:
        registry: What is promoted, and what is published.
        ledger: What was asked for, and where jobs are queued.
        configuration: Which promotions are to be exported to what.
        formats: The installed formats by name.
        outbox: The hook's rows, moved before a promotion counts as missed; None where there is no hook.
        workspace: The MLflow workspace to work in.
    """

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        configuration: Configuration,
        formats: Mapping[str, Format],
        outbox: OutboxReader | None = None,
        workspace: str | None = None,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._configuration = configuration
        self._formats = formats
        self._outbox = outbox
        self._workspace = workspace
        self._promotions = Promotions(ledger.database, workspace)
        # Other rules begin anew: what was nobody's business may be somebody's now.
        self._cursor = f"versions {_digest({repr(configuration.rules)})[:16]}"

    def take_turn(self, interval_s: float) -> bool:
        """Whether a sweep is due and this worker's to make; the workers on one ledger take turns."""
        return self._promotions.take_turn(interval_s)

    def sweep(self) -> int:
        """Compare once, and return how many exports were queued.

        Raises:
            RegistryUnavailableError: the server does not answer; the next sweep begins where this one began.
            LedgerUnavailableError: the ledger does not answer.
        """
        began_ms = self._promotions.now_ms()
        queued = self._changed_versions(began_ms) + self._aliases(began_ms) + self._look_again(began_ms)
        if queued:
            _logger.info("Reconciled: %d promotions had no export.", queued)
        return queued

    def _changed_versions(self, began_ms: int) -> int:
        """Find stage changes and copies since the last sweep."""
        since = self._promotions.cursor(self._cursor)
        newest, queued = since, 0
        for info in self._registry.versions_changed_since(max(0, since - _OVERLAP_MS)):
            newest = max(newest, info.last_updated_ms)
            seen = {promotion.promotion: promotion for promotion in self._promotions.of_version(info.ref)}
            now = tuple(name for name in _stages_and_copies(info) if self._is_wanted(info.ref, name))
            gone = [old for name, old in seen.items() if not name.startswith("alias:") and name not in now]
            self._promotions.forget(gone)
            for name in now:
                # What lies before `since` was compared by the last sweep, unless it was committed late.
                if name not in seen or info.last_updated_ms > since:
                    queued += self._compare(began_ms, info, seen.get(name, Promotion(info.ref, name)))
        self._promotions.set_cursor(self._cursor, newest)
        return queued

    def _aliases(self, began_ms: int) -> int:
        """Find aliases that were set or moved since the last sweep."""
        seen = {(promotion.model_version, promotion.promotion) for promotion in self._promotions.of_kind("alias")}
        now = {
            (ref, f"alias:{alias}")
            for ref, alias in self._registry.aliases()
            if not alias.endswith(VERIFIED_ALIAS_SUFFIX) and self._is_wanted(ref, f"alias:{alias}")
        }
        self._promotions.forget([Promotion(ref, name) for ref, name in seen - now])
        fresh = sorted(now - seen, key=lambda pair: (str(pair[0]), pair[1]))
        return sum(self._visit(began_ms, Promotion(ref, name), files=False) for ref, name in fresh)

    def _look_again(self, began_ms: int) -> int:
        """Look at a few known promotions, files and all: exports may have been deleted."""
        return sum(self._visit(began_ms, old, files=True) for old in self._promotions.longest_unchecked(_LOOK_AGAIN))

    def _visit(self, began_ms: int, promotion: Promotion, *, files: bool) -> bool:
        try:
            info = self._registry.version(promotion.model_version)
        except RegistryError as error:
            if error.transient:
                raise
            if isinstance(error, ModelVersionNotFoundError):
                self._promotions.forget([promotion])
            else:
                _logger.warning("%s could not be read: %s", promotion.model_version, error)
                self._promotions.put(promotion)
            return False
        if promotion.promotion not in _promotions_of(info) or not self._is_wanted(info.ref, promotion.promotion):
            self._promotions.forget([promotion])
            return False
        return self._compare(began_ms, info, promotion, files=files)

    def _compare(self, began_ms: int, info: VersionInfo, promotion: Promotion, *, files: bool = False) -> bool:
        """Compare one promotion; one that the registry refuses to show is no reason to leave out the others."""
        try:
            return self._queue_if_missing(began_ms, info, promotion, files=files)
        except RegistryError as error:
            if error.transient:
                raise
            _logger.warning("%s could not be compared: %s", info.ref, error)
            self._promotions.put(promotion)
            return False

    def _queue_if_missing(self, began_ms: int, info: VersionInfo, promotion: Promotion, *, files: bool = False) -> bool:
        """Queue an export for a promotion if something that its rule asks for is missing; whether one was."""
        missing = self._missing(info, promotion, files=files)
        unsettled = info.tags.get(STATUS_TAG) in (Status.QUEUED, Status.RUNNING)
        if not missing and not unsettled:
            self._promotions.put(replace(promotion, missing=""))
            return False
        if self._outbox is not None:
            # The registry was read before this: whatever the hook wrote about it is in the ledger from here on.
            self._ledger.drain_outbox(self._outbox)
        jobs = self._ledger.list(ref=info.ref)
        latest = _latest(jobs, promotion.promotion)
        if any(_is_active(job) or _updated_ms(job) >= began_ms for job in jobs):
            queue = False  # an export is under way, or came to its end since the registry was read
        elif latest is not None and latest.state is not JobState.DONE:
            queue = False  # given up, or cancelled: a person's turn
            if unsettled:
                self._say_why(latest)
        else:
            # Without a job, or with one whose export is not whole any more; once for the same lack.
            queue = latest is None or (bool(missing) and promotion.missing != _digest(missing))
        if queue:
            self._queue(info, promotion)
        self._promotions.put(replace(promotion, missing=_digest(missing)) if queue else promotion)
        return queue

    def _is_wanted(self, ref: ModelVersionRef, promotion: str) -> bool:
        return self._configuration.rule_for(ref.name, promotion) is not None

    def _missing(self, info: VersionInfo, promotion: Promotion, *, files: bool) -> frozenset[str]:
        """Return the variants that the rule asks for and the version has not."""
        rule = self._configuration.rule_for(info.ref.name, promotion.promotion)
        try:
            tags = {**self._registry.model_tags(info.ref.name), **info.tags}
            targets = requested_targets(rule, tags, str(info.ref), self._formats) or ()
        except ConfigurationError:
            return frozenset({_TARGETS_TAG_IS_WRONG})  # the job says on the version's page what is wrong with it
        wanted = {target.variant: info.tags.get(f"{TAG_PREFIX}{target.variant}") for target in targets}
        missing = {variant for variant, line in wanted.items() if line is None}
        verified = {variant for variant, line in wanted.items() if line and line.startswith(Status.VERIFIED)}
        if files and verified:
            stored = set(self._registry.list_artifacts(info.ref, EXPORTS_FOLDER))
            missing |= {v for v in verified if f"{EXPORTS_FOLDER}/{v}/manifest.json" not in stored}
        return frozenset(missing)

    def _queue(self, info: VersionInfo, promotion: Promotion) -> None:
        # First the tag: once the job is there, a worker may be faster than we are.
        self._registry.set_tags(info.ref, {STATUS_TAG: Status.QUEUED})
        self._ledger.enqueue(
            info.ref,
            f"{PREFIX}{promotion.promotion}",
            workspace=self._workspace,
            previous_status=info.tags.get(STATUS_TAG),
        )
        _logger.info("%s: queued, because %s has no complete export.", info.ref, promotion.promotion)

    def _say_why(self, job: Job) -> None:
        """Say on the version's page what its worker could not say when it gave up."""
        publish_failure(self._registry, job.model_version, job.trigger, RegistryExportError(job.error))


def _promotions_of(info: VersionInfo) -> tuple[str, ...]:
    return (*_stages_and_copies(info), *(f"alias:{alias}" for alias in info.aliases))


def _stages_and_copies(info: VersionInfo) -> tuple[str, ...]:
    stage = () if info.stage in UNPROMOTED_STAGES else (f"stage:{info.stage}",)
    original = copied_from(info.source)
    return (*stage, f"copied:{original}") if original else stage


def _is_active(job: Job) -> bool:
    return job.state in (*WAITING, JobState.RUNNING)


def _latest(jobs: tuple[Job, ...], promotion: str) -> Job | None:
    """Return the newest job for this promotion, however it was found, that was not set aside."""
    found = (job for job in jobs if job.trigger.removeprefix(PREFIX) == promotion)
    return next((job for job in found if job.state is not JobState.IGNORED), None)


def _updated_ms(job: Job) -> int:
    return round(job.updated_at.timestamp() * 1000)


def _digest(words: Collection[str]) -> str:
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()
