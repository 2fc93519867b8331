"""The reconciler: compare what is promoted with what has been exported, and queue what is missing.

It works through the registry's REST API alone: where no hook can be installed it is the trigger, elsewhere the
safety net. It finds stage changes, aliases and copies, whenever they happened, and exports that were deleted by hand.

What it costs grows with what changed. MLflow lists versions by their latest update, and a stage change is one: these
are found in each sweep. Aliases come with the registered models, some pages in each sweep; of the known promotions
those longest not looked at are looked at anew, a few in each sweep, so that both have come round within an hour.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from registry_export.config import Configuration
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ModelVersionNotFoundError, RegistryError, RegistryExportError
from registry_export.format import Format
from registry_export.ledger import WAITING, Job, JobState, Ledger, OutboxReader, Promotion, Promotions
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG, UNPROMOTED_STAGES, VERIFIED_ALIAS_SUFFIX, copied_from
from registry_export.page import publish_failure
from registry_export.registry import ROUND_S, AliasPage, AliasRounds, Registry, VersionInfo
from registry_export.wants import LacksFiles, Wants

_logger = logging.getLogger(__name__)

PREFIX = "reconciled:"
# A promotion takes its time from a server's clock before it commits: look back far enough to see it.
_OVERLAP_MS = 120_000
_LOOK_AGAIN = 10
_LOOK_AGAIN_MEANWHILE = 2
_TOGETHER = 1000


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
        self._outbox = outbox
        self._workspace = workspace
        self._promotions = Promotions(ledger.database, workspace)
        self._alias_rounds = AliasRounds(registry)
        self._interval_s = self._ask_again = 0.0
        self._wants = Wants(registry, configuration, formats)
        self._looked_at: list[Promotion] = []  # what this sweep will have remembered
        # Other rules begin anew: what was nobody's business may be somebody's now.
        self._cursor = f"versions {_digest({repr(configuration.rules)})[:16]}"

    def take_turn(self, interval_s: float) -> bool:
        """Whether a sweep is due and this worker's to make; the workers on one ledger take turns."""
        now = time.monotonic()
        if now < self._ask_again:
            return False
        # The look takes the ledger's write lock; a sweep may be late by a sixth of the interval.
        self._interval_s, self._ask_again = interval_s, now + interval_s / 6
        return self._promotions.take_turn(interval_s)

    def sweep(self, *, whole: bool = False) -> int:
        """Compare once, and return how many exports were queued.

        Args:
            whole: Read every alias, which may be many: for who does not come back in a while.

        Raises:
            RegistryUnavailableError: the server does not answer; the next sweep begins where this one began.
            LedgerUnavailableError: the ledger does not answer.
        """
        began_ms = self._promotions.now_ms()
        self._wants.begin()
        try:
            queued = (
                self._changed_versions(began_ms) + self._aliases(began_ms, whole) + self._look_again(began_ms, whole)
            )
        finally:
            self._remember()
        if queued:
            _logger.info("Reconciled: %d promotions had no export.", queued)
        return queued

    def look_at(self, refs: Collection[ModelVersionRef]) -> int:
        """Compare what somebody says has changed, without waiting for its turn, and return how many were queued.

        Args:
            refs: Versions, which need not exist.

        Raises:
            RegistryUnavailableError: the server does not answer; the next sweep finds as much.
            LedgerUnavailableError: the ledger does not answer.
        """
        began_ms = self._promotions.now_ms()
        self._wants.begin()
        try:
            queued = self._changed_versions(began_ms)
            page = self._registry.aliases_of({ref.name for ref in refs})
            queued += self._compare_aliases(began_ms, page, self._promotions.of_models(page.models))
            # Other targets may be asked for by now.
            known = {ref: self._promotions.of_version(ref) for ref in refs if ref.name in page.models}
            queued += self._visit_all(began_ms, {ref: seen for ref, seen in known.items() if seen}, files=False)
        finally:
            self._remember()
        return queued

    def _remember(self) -> None:
        looked_at, self._looked_at = self._looked_at, []
        # The last word on each.
        self._promotions.put_all({(old.model_version, old.promotion): old for old in looked_at}.values())

    def _changed_versions(self, began_ms: int) -> int:
        """Find stage changes and copies since the last sweep."""
        since = self._promotions.cursor(self._cursor)
        changed = self._registry.versions_changed_since(max(0, since - _OVERLAP_MS))
        newest, queued = since, 0
        while infos := tuple(islice(changed, _TOGETHER)):
            newest = max(newest, *(info.last_updated_ms for info in infos))
            queued += self._compare_changed(began_ms, since, infos)
            self._remember()
        if newest != since:
            self._promotions.set_cursor(self._cursor, newest)
        return queued

    def _compare_changed(self, began_ms: int, since: int, infos: Sequence[VersionInfo]) -> int:
        queued = 0
        seen: dict[ModelVersionRef, dict[str, Promotion]] = defaultdict(dict)
        for old in self._promotions.of_models({info.ref.name for info in infos}):
            seen[old.model_version][old.promotion] = old
        for info in infos:
            known = seen.get(info.ref, {})
            now = tuple(name for name in _stages_and_copies(info) if self._wants.wants(info.ref.name, name))
            gone = [old for name, old in known.items() if not name.startswith("alias:") and name not in now]
            self._promotions.forget(gone)
            for name in now:
                # What lies before `since` was compared by the last sweep, unless it was committed late.
                if name not in known or info.last_updated_ms > since:
                    queued += self._compare(began_ms, info, known.get(name, Promotion(info.ref, name)))
        return queued

    def _aliases(self, began_ms: int, whole: bool) -> int:
        """Find aliases that were set or moved since they were read last."""
        page, is_everything = self._alias_rounds.turn(whole=whole)
        # A model that was deleted is on no page: those that know of it look again some time.
        known = self._promotions.of_kind("alias") if is_everything else self._promotions.of_models(page.models)
        return self._compare_aliases(began_ms, page, known)

    def _compare_aliases(self, began_ms: int, page: AliasPage, known: Collection[Promotion]) -> int:
        seen = {(old.model_version, old.promotion) for old in known if old.promotion.startswith("alias:")}
        now = {
            (ref, f"alias:{alias}")
            for ref, alias in page.aliases
            if not alias.endswith(VERIFIED_ALIAS_SUFFIX) and self._wants.wants(ref.name, f"alias:{alias}")
        }
        self._promotions.forget([Promotion(ref, name) for ref, name in seen - now])
        fresh: dict[ModelVersionRef, list[Promotion]] = defaultdict(list)
        for ref, name in sorted(now - seen, key=lambda pair: (str(pair[0]), pair[1])):
            fresh[ref].append(Promotion(ref, name))
        return self._visit_all(began_ms, fresh, files=False)

    def _look_again(self, began_ms: int, whole: bool) -> int:
        """Look at some known promotions, files and all: exports may have been deleted."""
        self._remember()
        least = _LOOK_AGAIN if whole else _LOOK_AGAIN_MEANWHILE
        share = self._interval_s / ROUND_S
        due, due_versions = (max(least, math.ceil(count * share)) for count in self._promotions.counts())
        oldest = self._promotions.longest_unchecked(due)
        versions = tuple(dict.fromkeys(old.model_version for old in oldest))[:due_versions]
        together: dict[ModelVersionRef, list[Promotion]] = defaultdict(list)
        for known in self._promotions.of_models({ref.name for ref in versions}):
            together[known.model_version].append(known)
        return self._visit_all(began_ms, {ref: together[ref] for ref in versions}, files=True)

    def _visit_all(
        self, began_ms: int, promotions: Mapping[ModelVersionRef, Sequence[Promotion]], *, files: bool
    ) -> int:
        """Compare promotions by version: first all together, then singly those of which anything is missing."""
        settled = self._registry.glance_at_many(promotions, STATUS_TAG)
        queued = 0
        for ref, of_version in promotions.items():
            if ref in settled and self._is_whole(settled[ref], of_version, files=files):
                self._looked_at += [replace(promotion, missing="") for promotion in of_version]
            else:
                queued += self._visit(began_ms, ref, of_version, files=files)
        return queued

    def _is_whole(self, info: VersionInfo, promotions: Sequence[Promotion], *, files: bool) -> bool:
        """Whether a version is certain to need nothing; that an alias was taken away is not seen here, and harmless."""
        stands = all(old.promotion.startswith("alias:") or old.promotion in promotions_of(info) for old in promotions)
        if not stands or info.tags.get(STATUS_TAG) in (Status.QUEUED, Status.RUNNING):
            return False
        if not all(self._wants.wants(info.ref.name, old.promotion) for old in promotions):
            return False
        lacks = self._file_check(info) if files else None
        try:
            return not any(self._wants.missing(info, promotion.promotion, lacks) for promotion in promotions)
        except RegistryError as error:
            if error.transient:
                raise
            return False

    def _file_check(self, info: VersionInfo) -> LacksFiles:
        return functools.cache(lambda paths: self._registry.lacks_files(info.ref, info.source, paths))

    def _visit(self, began_ms: int, ref: ModelVersionRef, promotions: Sequence[Promotion], *, files: bool) -> int:
        """Compare promotions of one version, which is read anew."""
        try:
            info = self._registry.glance(ref)
        except RegistryError as error:
            if error.transient:
                raise
            if isinstance(error, ModelVersionNotFoundError):
                self._promotions.forget(promotions)
            else:
                _logger.warning("%s could not be read: %s", ref, error)
                self._looked_at.extend(promotions)
            return 0
        held = promotions_of(info)
        stands = [old for old in promotions if old.promotion in held and self._wants.wants(ref.name, old.promotion)]
        self._promotions.forget([old for old in promotions if old not in stands])
        lacks = self._file_check(info) if files else None
        return sum(self._compare(began_ms, info, promotion, lacks) for promotion in stands)

    def _compare(
        self, began_ms: int, info: VersionInfo, promotion: Promotion, lacks_files: LacksFiles | None = None
    ) -> bool:
        """Compare one promotion; one that the registry refuses to show is no reason to leave out the others."""
        try:
            return self._queue_if_missing(began_ms, info, promotion, lacks_files)
        except RegistryError as error:
            if error.transient:
                raise
            _logger.warning("%s could not be compared: %s", info.ref, error)
            self._looked_at.append(promotion)
            return False

    def _queue_if_missing(
        self, began_ms: int, info: VersionInfo, promotion: Promotion, lacks_files: LacksFiles | None
    ) -> bool:
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


def promotions_of(info: VersionInfo) -> tuple[str, ...]:
    """Name the promotions by which a version stands where it does: its stage, its aliases, and what it is a copy of."""
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
