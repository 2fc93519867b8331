"""The model files of an export's targets, stored while other targets are still being made.

Only files: nothing speaks of them before `publish` has stored the rest. What was promised of the same variant is
taken back before its first file is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from registry_export.bench import Bench
from registry_export.entities import ExportReport, ModelVersionRef, Status, TargetResult
from registry_export.errors import ExportCancelledError, RegistryExportError
from registry_export.outbox import STATUS_TAG
from registry_export.page import read_report
from registry_export.publishing import withdraw
from registry_export.registry import EXPORTS_FOLDER, Registry, VersionInfo

_log = logging.getLogger(__name__)


class EarlyUploads:
    """Stores the files of one target after another beside the steps of the others.

    Use it as a context manager: it leaves no thread behind.

    Args:
        bench: What the export works with.
        registry: Where to.
        ref: The version.
        touched: Told of a variant before the first of its files is touched.
    """

    def __init__(self, bench: Bench, registry: Registry, ref: ModelVersionRef, touched: Callable[[str], None]) -> None:
        self._bench = bench
        self._registry = registry
        self._ref = ref
        self._touched = touched
        self._found: tuple[VersionInfo, ExportReport | None] | None = None
        self._stored: set[str] = set()
        self._futures: list[Future[None]] = []
        # One at a time: each takes back what the version's one report says of its variant.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")

    def __enter__(self) -> EarlyUploads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def begin(self, result: TargetResult, folder: Path | None) -> None:
        """Store a target's files soon, unless it has none or has failed."""
        if folder is not None and result.status is not Status.FAILED:
            self._futures.append(self._executor.submit(self._store, result.variant, folder))

    def settle(self) -> frozenset[str]:
        """Wait for the end of all that was begun.

        Returns:
            The variants whose files are stored. What could not be stored now is left to `publish`, which
            tries it again and says why it cannot be.
        """
        for future in self._futures:
            future.result()
        return frozenset(self._stored)

    def _store(self, variant: str, folder: Path) -> None:
        if self._bench.pool.cancelled.is_set():
            return
        try:
            with self._bench.step("upload", variant):
                self._touched(variant)
                info, previous = self._before()
                left = withdraw(self._registry, previous, info, frozenset({variant}))
                self._found = info, left
                self._registry.upload(self._ref, folder, f"{EXPORTS_FOLDER}/{variant}")
            self._stored.add(variant)
        except ExportCancelledError:
            return
        except RegistryExportError as error:
            _log.info("%s: %s is stored later: %s", self._ref, variant, error)

    def _before(self) -> tuple[VersionInfo, ExportReport | None]:
        """Read what the version promises, once: nobody else writes it meanwhile."""
        if self._found is None:
            info = self._registry.version(self._ref)
            if info.tags.get(STATUS_TAG) != Status.RUNNING:
                self._registry.set_tags(self._ref, {STATUS_TAG: Status.RUNNING})
            self._found = info, read_report(self._registry, self._ref)
        return self._found
