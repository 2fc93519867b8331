"""While an export runs, a thread keeps its claim and hears of whoever wants it to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from registry_export.errors import ExportCancelledError, LedgerError, StaleLeaseError
from registry_export.ledger.claims import Claims
from registry_export.ledger.jobs import Job

_logger = logging.getLogger(__name__)
_RENEWALS_PER_LEASE = 4


class Heartbeat:
    """Context manager: renews a job's lease until the block ends.

    Args:
        ledger: Where the job is.
        job: The claimed job.
        lease_s: How long each renewal holds, in seconds.
        stop_export: Called once, in the heartbeat's thread, when the export should stop.
        beaten: Called before each renewal, whatever comes of it.

    Attributes:
        verdict: Why the export should stop: `StaleLeaseError` or `ExportCancelledError`; None while it should not.
    """

    def __init__(
        self,
        ledger: Claims,
        job: Job,
        lease_s: float,
        stop_export: Callable[[], None],
        beaten: Callable[[], None] = lambda: None,
    ) -> None:
        self.verdict: StaleLeaseError | ExportCancelledError | None = None
        self._ledger = ledger
        self._job = job
        self._lease_s = lease_s
        self._stop_export = stop_export
        self._beaten = beaten
        self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of job {job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Make sure that the job is still this worker's, before something is written that others see.

        A process that was stopped and goes on writes before its heartbeat wakes, into what is another worker's by then.

        Raises:
            StaleLeaseError: it is not.
        """
        if time.monotonic() - self._renewed > self._lease_s / 2:
            self._renew()
        if isinstance(self.verdict, StaleLeaseError):
            raise StaleLeaseError(str(self.verdict))

    def _beat(self) -> None:
        while self.verdict is None and not self._ended.wait(self._lease_s / _RENEWALS_PER_LEASE):
            self._beaten()
            self._renew()
        if self.verdict is not None:
            self._stop_export()

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            self._ledger.renew(self._job, self._lease_s)
            self._renewed = began
        except (StaleLeaseError, ExportCancelledError) as verdict:
            self.verdict = verdict
        except LedgerError as error:
            _logger.warning("The lease of job %d could not be renewed: %s", self._job.id, error)
            if time.monotonic() - self._renewed > self._lease_s:
                self.verdict = StaleLeaseError(f"The claim on job {self._job.id} has lapsed: {error}")
