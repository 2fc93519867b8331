"""The reconciler: compare what is promoted with what has been exported, and queue what is missing.

It works through the registry's REST API alone: where no hook can be installed it is the trigger, elsewhere the
safety net. It finds stage changes, aliases and copies, whenever they happened, and exports that were deleted by hand.

What it costs grows with what changed. MLflow lists versions by their latest update, and a stage change is one: these
are found in each sweep. Aliases come with the registered models, some pages in each sweep; of the known promotions
those longest not looked at are looked at anew, a few in each sweep, so that both have come round within an hour.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from registry_export.config import Configuration
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ModelVersionNotFoundError, RegistryError
from registry_export.format import Format
from registry_export.ledger import Ledger, OutboxReader, Promotion, Promotions
from registry_export.missed import Missed, digest
from registry_export.outbox import STATUS_TAG, UNPROMOTED_STAGES, VERIFIED_ALIAS_SUFFIX, copied_from
from registry_export.registry import ROUND_S, AliasPage, AliasRounds, Registry, VersionInfo
from registry_export.wants import LacksFiles, Wants

_logger = logging.getLogger(__name__)

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
        self._promotions = Promotions(ledger.database, workspace)
        self._alias_rounds = AliasRounds(registry)
        self._interval_s = self._ask_again = 0.0
        self._wants = Wants(registry, configuration, formats)
        self._missed = Missed(registry, ledger, self._promotions, self._wants, outbox, workspace)
        # Other rules begin anew: what was nobody's business may be somebody's now.
        self._cursor = f"versions {digest({repr(configuration.rules)})[:16]}"

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
        self._missed.begin()
        try:
            queued = self._changed_versions() + self._aliases(whole) + self._look_again(whole)
        finally:
            self._missed.remember()
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
        self._missed.begin()
        try:
            queued = self._changed_versions()
            page = self._registry.aliases_of({ref.name for ref in refs})
            queued += self._compare_aliases(page, self._promotions.of_models(page.models))
            # Other targets may be asked for by now.
            known = {ref: self._promotions.of_version(ref) for ref in refs if ref.name in page.models}
            queued += self._visit_all({ref: seen for ref, seen in known.items() if seen}, files=False)
        finally:
            self._missed.remember()
        return queued

    def _changed_versions(self) -> int:
        """Find stage changes and copies since the last sweep."""
        since = self._promotions.cursor(self._cursor)
        changed = self._registry.versions_changed_since(max(0, since - _OVERLAP_MS))
        newest, queued = since, 0
        while infos := tuple(islice(changed, _TOGETHER)):
            newest = max(newest, *(info.last_updated_ms for info in infos))
            queued += self._compare_changed(since, infos)
            self._missed.remember()
        if newest != since:
            self._promotions.set_cursor(self._cursor, newest)
        return queued

    def _compare_changed(self, since: int, infos: Sequence[VersionInfo]) -> int:
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
                    queued += self._missed.compare(info, known.get(name, Promotion(info.ref, name)))
        return queued

    def _aliases(self, whole: bool) -> int:
        """Find aliases that were set or moved since they were read last."""
        page, is_everything = self._alias_rounds.turn(whole=whole)
        # A model that was deleted is on no page: those that know of it look again some time.
        known = self._promotions.of_kind("alias") if is_everything else self._promotions.of_models(page.models)
        return self._compare_aliases(page, known)

    def _compare_aliases(self, page: AliasPage, known: Collection[Promotion]) -> int:
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
        return self._visit_all(fresh, files=False)

    def _look_again(self, whole: bool) -> int:
        """Look at some known promotions, files and all: exports may have been deleted."""
        self._missed.remember()
        least = _LOOK_AGAIN if whole else _LOOK_AGAIN_MEANWHILE
        share = self._interval_s / ROUND_S
        due, due_versions = (max(least, math.ceil(count * share)) for count in self._promotions.counts())
        oldest = self._promotions.longest_unchecked(due)
        versions = tuple(dict.fromkeys(old.model_version for old in oldest))[:due_versions]
        together: dict[ModelVersionRef, list[Promotion]] = defaultdict(list)
        for known in self._promotions.of_models({ref.name for ref in versions}):
            together[known.model_version].append(known)
        return self._visit_all({ref: together[ref] for ref in versions}, files=True)

    def _visit_all(self, promotions: Mapping[ModelVersionRef, Sequence[Promotion]], *, files: bool) -> int:
        """Compare promotions by version: first all together, then singly those of which anything is missing."""
        settled = self._registry.glance_at_many(promotions, STATUS_TAG)
        queued = 0
        for ref, of_version in promotions.items():
            if ref in settled and self._is_whole(settled[ref], of_version, files=files):
                self._missed.note(replace(promotion, missing="") for promotion in of_version)
            else:
                queued += self._visit(ref, of_version, files=files)
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

    def _visit(self, ref: ModelVersionRef, promotions: Sequence[Promotion], *, files: bool) -> int:
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
                self._missed.note(promotions)
            return 0
        held = promotions_of(info)
        stands = [old for old in promotions if old.promotion in held and self._wants.wants(ref.name, old.promotion)]
        self._promotions.forget([old for old in promotions if old not in stands])
        lacks = self._file_check(info) if files else None
        return sum(self._missed.compare(info, promotion, lacks) for promotion in stands)


def promotions_of(info: VersionInfo) -> tuple[str, ...]:
    """Name the promotions by which a version stands where it does: its stage, its aliases, and what it is a copy of."""
    return (*_stages_and_copies(info), *(f"alias:{alias}" for alias in info.aliases))


def _stages_and_copies(info: VersionInfo) -> tuple[str, ...]:
    stage = () if info.stage in UNPROMOTED_STAGES else (f"stage:{info.stage}",)
    original = copied_from(info.source)
    return (*stage, f"copied:{original}") if original else stage
