"""One claimed job: from its trigger to the rule, through the export, to a settled row and a tag that says so."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from registry_export.config import Rule, parse_targets, requested_setup, requested_targets
from registry_export.entities import Status, Target
from registry_export.errors import (
    ConfigurationError,
    ExportCancelledError,
    LedgerUnavailableError,
    RegistryExportError,
    RegistryUnavailableError,
    StaleLeaseError,
    full_disk,
)
from registry_export.evaluation_setup import NO_EVALUATION
from registry_export.exports import variants_named
from registry_export.ledger import WAITING, Heartbeat, Job, JobState
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG
from registry_export.page import publish_failure, read_report
from registry_export.registry import Claim, VersionInfo
from registry_export.reporter import Reporter
from registry_export.timeline import traced
from registry_export.worker.log_reporter import LogReporter
from registry_export.worker.parts import Parts, about_job, key_of
from registry_export.worker.reversion import wants_reversion
from registry_export.worker.success import follow

_logger = logging.getLogger(__name__)
_BUSY_CHECKPOINT_S = 2.0
_HANDED_BACK_S = 5.0
"""By then nothing is under way of a process that has ended."""

_STOPPED = "Its worker was stopped."


class JobRunner:
    """Runs claimed jobs, one at a time.

    Args:
        parts: What it works with.
        abort: When set, the running export stops and its job is given back.
    """

    def __init__(self, parts: Parts, abort: threading.Event) -> None:
        self._parts = parts
        self._ledger = parts.ledger
        self._registry = parts.registry
        self._abort = abort
        self._began = 0.0
        self._left: list[Job] = []
        self._current: Job | None = None

    def run(self, job: Job) -> None:
        """Run one claimed job and settle it; only errors of the ledger come out of here."""
        with about_job(job):
            _logger.info("%s: attempt %d of job %d (%s)", job.model_version, job.attempt, job.id, job.trigger)
            self._parts.pool.renew()
            if self._abort.is_set():
                self._parts.pool.cancel()
            self._began = time.monotonic()
            self._current = job
            self._parts.observer.claimed(job)
            left: Job | None = None
            try:
                self._attempt(job)
                left = self._ledger.get(job.id)
            except StaleLeaseError as error:
                self._left.append(job)
                _logger.warning("%s What was exported is left to whoever has the job.", error)
            except LedgerUnavailableError:
                self._left.append(job)
                raise
            finally:
                self._current = None
                self._parts.observer.left(left or job, left.state if left is not None else None)

    def hand_back(self) -> None:
        """Give back the jobs that were left because the ledger did not answer, where no other worker has them by now.

        Their leases would lapse else, as if this worker had vanished.

        Raises:
            LedgerUnavailableError: It still does not answer.
        """
        while self._left:
            with contextlib.suppress(StaleLeaseError):
                self._ledger.postpone(self._left[-1], 0.0, "The ledger did not answer its worker.")
            self._left.pop()

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._current is not None

    def abandon(self) -> None:
        """Give the running job back while its export still hangs somewhere; for a process that ends at once."""
        job = self._current
        if job is not None:
            with contextlib.suppress(StaleLeaseError):  # it was settled meanwhile
                self._ledger.postpone(job, _HANDED_BACK_S, _STOPPED)

    def _attempt(self, job: Job) -> None:
        try:
            with (
                Heartbeat(
                    self._ledger, job, self._parts.lease_s, self._parts.pool.cancel, self._parts.observer.turned
                ) as heartbeat,
                self._registry.keeping_places(),
                self._registry.writing_for(Claim(key_of(job), job.attempt > 1 or bool(job.error), heartbeat.check)),
            ):
                if job.verifies:
                    self._verify(job)
                else:
                    self._export(job)
        except StaleLeaseError:
            raise
        except RegistryExportError as error:
            self._settle_failure(job, error, heartbeat.verdict)
        except Exception as error:
            full = full_disk(error)
            if full is None:
                # A mistake of ours or of a plugin must not take the worker down with it, and is not hidden either.
                _logger.exception("%s: job %d", job.model_version, job.id)
            told = full or RegistryExportError(f"{type(error).__name__}: {error}")
            self._settle_failure(job, told, heartbeat.verdict)

    def _export(self, job: Job) -> None:
        parts = self._parts
        if job.puts_back is not None:
            self._ignore(job, f"A worker did this: it put back what the promotion of job {job.puts_back} had replaced.")
            return
        rule = parts.configuration.rule_for(job.model_version.name, job.trigger)
        if rule is None and not job.targets:
            self._ignore(job, f"No rule wants {job.trigger} of {job.model_version.name}.")
            return
        info = self._held(job)
        if info is None:
            return
        of_model = self._registry.model_tags(job.model_version.name)
        tags = {**of_model, **info.tags}
        targets = self._targets(job, rule, tags)
        setup = requested_setup(rule, tags, str(job.model_version))
        told = {TRIGGER_TAG: job.trigger, STATUS_TAG: Status.RUNNING}  # the hook has told of the trigger already
        self._registry.set_tags(job.model_version, {n: v for n, v in told.items() if info.tags.get(n) != v})
        with self._reporter(job) as reporter:
            report = parts.export(
                job.model_version,
                targets=targets,
                trigger=job.trigger,
                registry=parts.registry,
                formats=parts.formats,
                pool=parts.pool,
                samples=rule.samples if rule else None,
                tolerance=rule.tolerance if rule else None,
                setup=setup,
                runtimes=rule.runtimes if rule else {},
                evaluation=rule.evaluation if rule else NO_EVALUATION,
                latency=parts.latency,
                index=parts.index,
                costs=parts.costs,
                signer=parts.signer,
                earlier=self._ledger.exported_before(job),
                approval=job.approval,
                reporter=reporter,
            )
        parts.observer.exported(report, {target.variant for target in targets})
        lacking = follow(parts, report, of_model, last=self._ledger.is_last_attempt(job))
        revert = wants_reversion(parts, job, report.status)
        self._ledger.complete(job, report.status, report.run_id, revert=revert, lacking=lacking)
        _logger.info("%s: %s", job.model_version, report.status, extra=self._end(report.status))

    def _verify(self, job: Job) -> None:
        """Verify stored exports again; until there are new verdicts the version's page stays as it is."""
        parts = self._parts
        info = self._held(job)
        if info is None:
            return
        report = read_report(self._registry, job.model_version)
        rule = parts.configuration.rule_behind(job.model_version.name, report.trigger if report is not None else "")
        of_model = self._registry.model_tags(job.model_version.name)
        tags = {**of_model, **info.tags}
        with self._reporter(job) as reporter:
            verified = parts.verify(
                job.model_version,
                variants=variants_named(job.targets, parts.formats) if job.targets else (),
                registry=parts.registry,
                formats=parts.formats,
                pool=parts.pool,
                samples=rule.samples if rule else None,
                tolerance=rule.tolerance if rule else None,
                setup=requested_setup(rule, tags, str(job.model_version)),
                evaluation=rule.evaluation if rule else NO_EVALUATION,
                latency=parts.latency,
                index=parts.index,
                costs=parts.costs,
                signer=parts.signer,
                reporter=reporter,
            )
        lacking = follow(parts, verified, of_model, last=self._ledger.is_last_attempt(job))
        self._ledger.complete(job, verified.status, verified.run_id, lacking=lacking)
        _logger.info("%s: verified again: %s", job.model_version, verified.status, extra=self._end(verified.status))

    def _end(self, status: str) -> dict[str, object]:
        """Return what the line that ends an attempt has beside its text."""
        return {"status": str(status), "seconds": round(time.monotonic() - self._began, 3)}

    def _reporter(self, job: Job) -> AbstractContextManager[Reporter]:
        parts = self._parts
        reporter = parts.observer.steps(LogReporter(job.model_version, parts.pool))
        return traced(reporter, parts.trace_folder, str(job.model_version))

    def _held(self, job: Job) -> VersionInfo | None:
        """Keep the version's checkpoint to this job; None where another job has it, and this one is given back."""
        info = self._registry.version(job.model_version)
        if not self._ledger.hold(job, info.files_id):
            self._ledger.postpone(job, _BUSY_CHECKPOINT_S, "Another version of the same checkpoint is being exported.")
            return None
        return info

    def _targets(self, job: Job, rule: Rule | None, tags: Mapping[str, str]) -> tuple[Target, ...]:
        formats = self._parts.formats
        if job.targets:
            return parse_targets(job.targets, f"job {job.id}", formats)
        targets = requested_targets(rule, tags, str(job.model_version), formats)
        if targets is None:
            raise ConfigurationError(f"Nothing says what {job.model_version} is to be exported to.")
        return targets

    def _ignore(self, job: Job, reason: str) -> None:
        """Settle a promotion that asks for no export, and take the hook's tags back."""
        unsettled = self._ledger.list(WAITING, job.model_version, workspaces=(job.workspace,))
        tags = self._registry.version(job.model_version).tags
        if tags.get(STATUS_TAG) == Status.QUEUED and not unsettled:
            earlier = {STATUS_TAG: self._ledger.earlier_status(job), TRIGGER_TAG: self._earlier_trigger(job)}
            known = {name: value for name, value in earlier.items() if value is not None}
            self._registry.delete_tags(job.model_version, tuple(name for name in earlier if name not in known))
            self._registry.set_tags(job.model_version, known)
        self._ledger.ignore(job, reason)
        _logger.info("%s: ignored. %s", job.model_version, reason, extra=self._end(JobState.IGNORED))

    def _earlier_trigger(self, job: Job) -> str | None:
        """What asked for the export of which the version's page speaks; None: it speaks of none."""
        known = self._ledger.earlier_trigger(job)
        if known is None and (report := read_report(self._registry, job.model_version)) is not None:
            known = report.trigger  # of another ledger
        return known

    def _settle_failure(self, job: Job, error: RegistryExportError, verdict: RegistryExportError | None) -> None:
        if isinstance(verdict, StaleLeaseError):
            raise verdict
        if isinstance(error, ExportCancelledError):
            _logger.info("%s: stopped.", job.model_version, extra=self._end(JobState.CANCELLED))
            if verdict is None and self._abort.is_set():
                self._ledger.postpone(job, 0.0, _STOPPED)
            else:
                self._ledger.cancelled(job)
        else:
            _logger.error("%s: %s", job.model_version, error, extra=self._end(Status.FAILED))
            revert = wants_reversion(self._parts, job, Status.FAILED)
            self._ledger.fail(job, str(error), transient=error.transient, revert=revert)
        settled = self._ledger.get(job.id)
        if settled.state in WAITING:
            self._show_waiting(settled)
        else:
            self.publish_death(settled, error)

    def _show_waiting(self, job: Job) -> None:
        _logger.info("%s: the next attempt is at %s.", job.model_version, f"{job.available_at:%H:%M:%S} UTC")
        if job.verifies:
            return
        # The registry may be what failed; the tag says `running` then until the next attempt.
        with contextlib.suppress(RegistryExportError):
            self._registry.set_tags(job.model_version, {STATUS_TAG: Status.QUEUED})

    def publish_death(self, job: Job, error: RegistryExportError | None = None) -> None:
        """Say on the version's page why its export is given up; the reconciler does it later where this fails.

        A verification that is given up has shown nothing: the page stays as it is.
        """
        if job.verifies:
            return
        with contextlib.suppress(RegistryExportError):  # what matters more is said below
            self._registry.end_export_runs(job.model_version, key_of(job))
        if job.state is JobState.CANCELLED:
            error = ExportCancelledError(f"Job {job.id} was cancelled.")
        try:
            publish_failure(self._registry, job.model_version, job.trigger, error or RegistryExportError(job.error))
        except RegistryUnavailableError as unavailable:
            _logger.warning("%s: %s", job.model_version, unavailable)
        except RegistryExportError as refused:
            # A version that was deleted has no page to say it on.
            _logger.info("%s: %s", job.model_version, refused)
