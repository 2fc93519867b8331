"""The worker's loop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextlib import ExitStack

from registry_export.entities import Status
from registry_export.errors import ClusterError, ConfigurationError, LedgerError, RegistryExportError
from registry_export.ledger import JobState, Ledger
from registry_export.pools import Pool
from registry_export.reconcile import Reconciler
from registry_export.report import prepare_report
from registry_export.scratch import sweep
from registry_export.settings import OUTBOX_URI, WEBHOOK_SECRET, Settings
from registry_export.worker.job import JobRunner
from registry_export.worker.observer import LEDGER, OUTBOX, REGISTRY
from registry_export.worker.parts import LEASE_S, Exporter, Parts, gather_parts, worker_name
from registry_export.worker.places import open_pool
from registry_export.worker.reversion import Reverter, wants_reversion
from registry_export.worker.rounds import Rounds
from registry_export.worker.stopping import GRACE_S, stopped_by_signals
from registry_export.worker.warming import wanted_toolchains
from registry_export.worker.watching import watched

_logger = logging.getLogger(__name__)

_RECONCILE_S = 30.0
_LONGEST_PAUSE_S = 30.0
_IDLE_TOOLCHAIN_S = 600.0
_GLANCE_S = 0.1
_SWEEP_S = 600.0


def run_worker(
    settings: Settings,
    *,
    once: bool = False,
    poll_s: float = 1.0,
    reconcile_s: float = _RECONCILE_S,
    reverify_s: float | None = None,
    warm: bool = False,
    grace_s: float = GRACE_S,
    lease_s: float = LEASE_S,
    listen: str | None = None,
    stop: threading.Event | None = None,
    export: Exporter | None = None,
    ledger: Ledger | None = None,
    scheduler: str | None = None,
) -> None:
    """Export what is promoted, until stopped.

    SIGTERM and SIGINT let the running export end within `grace_s`, else its job is given back; a second one gives it
    back at once.

    Args:
        settings: Where things are.
        once: Do what is there to do now, then return.
        poll_s: Pause between looks at the ledger, in seconds; at the outbox alone it looks more often.
        reconcile_s: Pause between comparisons of the registry with what has been exported, in seconds.
        reverify_s: After so many seconds the exports of a promoted version are verified again, while no job waits;
            None: never.
        warm: Start the warm parents that the rules' targets need before the first job, not on first need.
        grace_s: How long the running export may go on after a signal, in seconds.
        lease_s: How long a claim holds when the worker falls silent, in seconds.
        listen: Answer `/metrics`, `/healthz` and `/readyz` at this address, as `listener.parse_address` reads it, and
            take webhooks there if the settings have their secret; None: nowhere.
        stop: Set it to stop after the running export, whenever that ends; for callers outside of the main thread.
        export: In place of `registry_export.export.export_model_version`.
        ledger: In place of the one that the settings name, with attempts and delays as usual.
        scheduler: Address of the Dask scheduler on whose cluster the steps run; None: they run here.

    Raises:
        RegistryExportError: the configuration or the ledger is wrong; with `once`, also that something is down.
    """
    stop = stop or threading.Event()
    sweep()
    with contextlib.closing(open_pool(settings, scheduler)) as pool, ExitStack() as running:
        parts = gather_parts(settings, pool, export, ledger, lease_s)
        if listen is not None:
            parts = running.enter_context(watched(parts, stop, listen, settings.webhook_secret))
        worker = Worker(parts, stop, reverify_s)
        # Its processes are to end within the limit too.
        with stopped_by_signals(worker, grace_s), contextlib.closing(pool):
            _announce(settings, once, listens=listen is not None)
            _look_at(pool)
            if warm:
                prepare_report()
                pool.warm(wanted_toolchains(parts.configuration, parts.formats))
            worker.run(once=once, poll_s=poll_s, reconcile_s=reconcile_s)


class Worker:
    """One worker, with one export at a time.

    Args:
        parts: What it works with.
        stop: When set, it stops after the running export.
        reverify_s: As for `run_worker`.
    """

    def __init__(self, parts: Parts, stop: threading.Event, reverify_s: float | None = None) -> None:
        self._parts = parts
        self._ledger = parts.ledger
        self._reconciler = Reconciler(
            parts.registry, parts.ledger, parts.configuration, parts.formats, parts.outbox, parts.workspace
        )
        self._name = worker_name()
        self._abort = threading.Event()
        self._runner = JobRunner(parts, self._abort)
        self._reverter = Reverter(parts)
        self._rounds = Rounds(parts, self._runner, reverify_s)
        self._swept = time.monotonic()
        self.stop = stop

    @property
    def is_busy(self) -> bool:
        """Whether an export is running."""
        return self._runner.is_busy

    def stop_at_once(self) -> None:
        """Stop the running export as well, and give its job back."""
        self.stop.set()
        self._abort.set()
        self._parts.pool.cancel()

    def abandon(self) -> None:
        """End all children, and give the running job back without waiting for its export."""
        self._parts.pool.kill()
        self._runner.abandon()

    def run(self, *, once: bool, poll_s: float, reconcile_s: float) -> None:
        """Work until stopped, or with `once` until there is nothing to do.

        Raises:
            RegistryExportError: the ledger refused; with `once`, also that a database or the server is down.
        """
        try:
            self._work(once=once, poll_s=poll_s, reconcile_s=reconcile_s)
        finally:
            # Else their leases would lapse, as if this worker had vanished: a last try, whatever ended it.
            with contextlib.suppress(RegistryExportError):
                self._runner.hand_back()

    def _work(self, *, once: bool, poll_s: float, reconcile_s: float) -> None:
        pause_s = poll_s
        if once:
            self._reconciler.sweep(whole=True)
        while not self.stop.is_set():
            self._parts.observer.turned()
            try:
                worked = self.step(None if once else reconcile_s)
            except RegistryExportError as error:
                if once or (isinstance(error, (ConfigurationError, LedgerError)) and not error.transient):
                    raise
                _logger.warning("%s", error)
                self.stop.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = poll_s
            self._tidy()
            if worked:
                continue
            if once:
                self._say_what_waits()
                return
            self._parts.pool.stop_idle(_IDLE_TOOLCHAIN_S)
            self._wait(poll_s)

    def _tidy(self) -> None:
        """Remove now and then what was left here and between the machines: another worker may have been killed."""
        if time.monotonic() - self._swept > _SWEEP_S:
            self._swept = time.monotonic()
            sweep()
            self._parts.pool.sweep()

    def _wait(self, seconds: float) -> None:
        """Pause until the time has passed, the worker is stopped, or the hook or a webhook has told something."""
        outbox, hints = self._parts.outbox, self._parts.hints
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stop.wait(left if outbox is None and hints is None else min(left, _GLANCE_S)) or hints:
                return
            try:
                if outbox is not None and not outbox.is_empty():
                    return
            except RegistryExportError:
                return  # the next look at everything says what is wrong

    def step(self, reconcile_s: float | None) -> bool:
        """Do one thing that is there to do; whether there was any."""
        self._runner.hand_back()
        outbox, observer = self._parts.outbox, self._parts.observer
        if outbox is not None:
            if not outbox.is_empty():
                self._ledger.drain_outbox(outbox)
            observer.reached(OUTBOX)
        # An idle worker asks this alone; what comes in meanwhile is seen the next time.
        unsettled = self._ledger.has_unsettled()
        observer.reached(LEDGER)
        for lapsed in self._ledger.lapsed(self._parts.workspace) if unsettled else ():
            if self._ledger.bury(lapsed, revert=wants_reversion(self._parts, lapsed, Status.FAILED)):
                self._runner.publish_death(self._ledger.get(lapsed.id))
        put_back = self._reverter.run_due()
        if reconcile_s is not None and self._reconciler.take_turn(reconcile_s):
            unsettled = self._reconciler.sweep() > 0 or unsettled
            observer.reached(REGISTRY)
        hints = self._parts.hints
        if hints:
            unsettled = self._reconciler.look_at(hints.take()) > 0 or unsettled
        if unsettled:
            self._parts.pool.check()
        job = (
            self._ledger.claim(self._name, self._parts.lease_s, workspace=self._parts.workspace) if unsettled else None
        )
        if job is None:
            return put_back or self._rounds.take_up(once=reconcile_s is None)
        self._runner.run(job)
        # Before the next look at `stop`: a promotion whose export failed should not stand until the next worker comes.
        self._reverter.run_due()
        return True

    def _say_what_waits(self) -> None:
        waiting = self._ledger.list((JobState.FAILED,))
        if waiting:
            _logger.warning("%d jobs wait for their next attempt; see `registry-export jobs list`.", len(waiting))


def _look_at(pool: Pool) -> None:
    """Say at once what keeps steps from running; it may pass."""
    try:
        pool.check()
    except ClusterError as error:
        _logger.warning("%s", error)


def _announce(settings: Settings, once: bool, *, listens: bool) -> None:
    _logger.info("Worker %s exports what is promoted at %s.", worker_name(), settings.tracking_uri)
    if settings.outbox_uri is None:
        _logger.info("%s is not set: promotions are found by comparing, through HTTP alone.", OUTBOX_URI)
    if settings.webhook_secret is not None and not listens:
        _logger.warning("%s is set, but nothing listens: webhooks come to `worker --listen`.", WEBHOOK_SECRET)
    if once:
        _logger.info("It ends when nothing is left to do.")
