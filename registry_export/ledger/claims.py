"""The workers' half of the ledger: claim a job, keep it, settle it."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, UnaryExpression, and_, case, exists, or_, select
from sqlalchemy.exc import IntegrityError

from registry_export.entities import Status
from registry_export.errors import ExportCancelledError, JobNotFoundError, StaleLeaseError
from registry_export.ledger.database import Database
from registry_export.ledger.jobs import WAITING, Job, JobState
from registry_export.ledger.rows import (
    abandoned,
    exclusive_key,
    held,
    job_from,
    milliseconds,
    settled,
)
from registry_export.ledger.tables import jobs
from registry_export.outbox import database_now_ms, stored_workspace

_CANDIDATES = 8
_UNSETTLED = select(jobs.c.id).where(jobs.c.state.in_([*WAITING, JobState.RUNNING])).limit(1)


class Claims:
    """Jobs in one database, as those who work on them see them.

    Args:
        uri: SQLAlchemy URL; a SQLite file's folder is made where it is absent.
        max_attempts: After so many attempts a job is dead; those whose worker vanished do not count.
        max_vanished: After so many attempts whose worker vanished a job is dead: it may be what takes them down.
        backoff_s: Mean delay after the first failed attempt; it doubles with each one.
        max_backoff_s: Where the doubling stops.
    """

    def __init__(
        self,
        uri: str,
        *,
        max_attempts: int = 10,
        max_vanished: int = 3,
        backoff_s: float = 10.0,
        max_backoff_s: float = 900.0,
    ) -> None:
        self.database = Database(uri, "ledger")
        self.max_attempts = max_attempts
        self.max_vanished = max_vanished
        self._backoff_s = backoff_s
        self._max_backoff_s = max_backoff_s

    def dispose(self) -> None:
        """Close every connection."""
        self.database.dispose()

    def get(self, job_id: int) -> Job:
        """Return one job.

        Raises:
            JobNotFoundError: there is none of that number.
        """
        found = self._select(jobs.c.id == job_id)
        if not found:
            raise JobNotFoundError(f"The ledger has no job {job_id}.", remedy="`registry-export jobs list` shows them.")
        return found[0]

    def claim(
        self, worker: str, lease_s: float = 60.0, *, job_id: int | None = None, workspace: str | None = None
    ) -> Job | None:
        """Claim the oldest job that may run now, or exactly `job_id`; None where there is none.

        A job of a worker that vanished may run again when its lease has lapsed, and this is counted. Two jobs of the
        same version never run at once.

        Args:
            worker: Who claims it, for people to read.
            lease_s: How long the claim holds without `renew`, in seconds.
            job_id: Claim this job and no other.
            workspace: Claim jobs of this MLflow workspace.
        """
        which = jobs.c.workspace == stored_workspace(workspace) if job_id is None else jobs.c.id == job_id
        conditions = (which, self._claimable(), ~_version_is_busy())
        for candidate in self._select(*conditions, order=jobs.c.id.asc(), limit=_CANDIDATES):
            lease = uuid.uuid4().hex
            if self._claim_one(candidate, worker, lease, lease_s):
                job = self.get(candidate.id)
                # Whoever had it since the candidate was read, and gave it back, has left a reason.
                first = not candidate.worker and job.attempt == 1 and not job.error
                return replace(job, first_claim=first) if job.lease == lease else None
        return None

    def hold(self, job: Job, checkpoint: str) -> bool:
        """Keep the checkpoint that the version rests on to this job while it runs; False where another job has it.

        Versions that share a logged model share the folder of its exports.

        Raises:
            StaleLeaseError: the job is another worker's by now.
        """
        with self.database.write() as connection:
            try:
                with connection.begin_nested():
                    is_mine = self._update(connection, job, running_checkpoint=exclusive_key(job.workspace, checkpoint))
            except IntegrityError:
                return False
        if not is_mine:
            raise self._stale(job)
        return True

    def renew(self, job: Job, lease_s: float = 60.0) -> None:
        """Prolong the claim.

        Raises:
            StaleLeaseError: the job is another worker's by now.
            ExportCancelledError: a person wants it to stop; the claim is prolonged, settle it with `cancelled`.
        """
        with self.database.write() as connection:
            is_mine = self._update(connection, job, lease_expires_at_ms=database_now_ms() + milliseconds(lease_s))
            wanted = connection.execute(select(jobs.c.cancel_requested).where(jobs.c.id == job.id)).scalar()
        if not is_mine:
            raise self._stale(job)
        if wanted:
            raise ExportCancelledError(f"Job {job.id} was cancelled.")

    # Jobs are settled. Each of these raises StaleLeaseError when the job is another worker's by now.

    def complete(self, job: Job, status: Status, run_id: str = "", *, revert: bool = False, lacking: str = "") -> None:
        """The export went through, whatever the verdict on its targets; with `revert` its promotion is put back.

        What came after it and could not be done is `lacking`, for people to read.
        """
        self._settle(job, JobState.DONE, revert, status=status.value, run_id=run_id, error=lacking)

    def fail(self, job: Job, error: str, *, transient: bool, revert: bool = False) -> Job:
        """The attempt failed as a whole: wait for the next one where that may help, else the job is dead.

        Args:
            job: The claimed job.
            error: Why it failed.
            transient: Whether another attempt may help.
            revert: Whether the promotion is put back if the job is dead.

        Returns:
            The job as it stands now: `FAILED`, `DEAD`, or `CANCELLED` where that was wanted meanwhile.
        """
        if self.get(job.id).cancel_requested:
            self._settle(job, JobState.CANCELLED, error=error)
        elif not transient:
            self._settle(job, JobState.DEAD, revert, status=Status.FAILED.value, error=error)
        elif self.is_last_attempt(job):
            error = f"{error} Given up after {job.attempt} attempts."
            self._settle(job, JobState.DEAD, revert, status=Status.FAILED.value, error=error)
        else:
            available = database_now_ms() + milliseconds(self._delay_s(job.attempt - job.vanished))
            self._settle(job, JobState.FAILED, error=error, available_at_ms=available)
        return self.get(job.id)

    def is_last_attempt(self, job: Job) -> bool:
        """Whether a job is given up when this attempt fails."""
        return job.attempt - job.vanished >= self.max_attempts

    def ignore(self, job: Job, reason: str) -> None:
        """No rule wants the promotion, or a worker made it."""
        self._settle(job, JobState.IGNORED, error=reason)

    def cancelled(self, job: Job) -> None:
        """The running export has stopped, as a person wanted."""
        self._settle(job, JobState.CANCELLED, error="Cancelled.")

    def postpone(self, job: Job, delay_s: float, reason: str) -> None:
        """Give the job back as if it had not been claimed; nobody takes it for `delay_s` seconds."""
        if self.get(job.id).cancel_requested:
            return self.cancelled(job)
        available = database_now_ms() + milliseconds(delay_s)
        return self._settle(job, JobState.QUEUED, error=reason, attempt=job.attempt - 1, available_at_ms=available)

    def has_unsettled(self) -> bool:
        """Whether any job waits or runs: a look that costs little."""
        with self.database.read() as connection:
            return connection.execute(_UNSETTLED).first() is not None

    def lapsed(self, workspace: str | None = None) -> tuple[Job, ...]:
        """The jobs that run no more and are not tried again: their worker vanished once too often, or was to stop."""
        return self._select(self._lapsed(), jobs.c.workspace == stored_workspace(workspace))

    def bury(self, job: Job, *, revert: bool = False) -> bool:
        """Settle a lapsed job, False where another worker did; with `revert` a dead one's promotion is put back."""
        state = JobState.CANCELLED if job.cancel_requested else JobState.DEAD
        values = settled(state) | {"error": "Cancelled.", "vanished": job.vanished + 1}
        if state is JobState.DEAD:
            values |= {"status": Status.FAILED.value, "reversion_due_at_ms": database_now_ms() if revert else None}
            values["error"] = abandoned(job, job.vanished + 1)
        with self.database.write() as connection:
            statement = jobs.update().where(self._lapsed(), jobs.c.id == job.id, jobs.c.lease == job.lease)
            return connection.execute(statement.values(values)).rowcount == 1

    def _claim_one(self, candidate: Job, worker: str, lease: str, lease_s: float) -> bool:
        statement = jobs.update().where(jobs.c.id == candidate.id, self._claimable())
        values = held(candidate.workspace, candidate.model_version, worker, lease, lease_s)
        values["attempt"] = jobs.c.attempt + 1
        # The database's own value of the state: a worker may have vanished since the candidate was read, or settled.
        values["vanished"] = jobs.c.vanished + case((jobs.c.state == JobState.RUNNING, 1), else_=0)
        with self.database.write() as connection:
            try:
                with connection.begin_nested():
                    return connection.execute(statement.values(values)).rowcount == 1
            except IntegrityError:
                return False  # another job of this version was claimed in the same moment

    def _claimable(self) -> ColumnElement[bool]:
        now = database_now_ms()
        return or_(
            and_(jobs.c.state.in_(WAITING), jobs.c.available_at_ms <= now),
            and_(
                jobs.c.state == JobState.RUNNING,
                jobs.c.lease_expires_at_ms <= now,
                jobs.c.vanished + 1 < self.max_vanished,
                ~jobs.c.cancel_requested,
            ),
        )

    def _lapsed(self) -> ColumnElement[bool]:
        return and_(
            jobs.c.state == JobState.RUNNING,
            jobs.c.lease_expires_at_ms <= database_now_ms(),
            or_(jobs.c.vanished + 1 >= self.max_vanished, jobs.c.cancel_requested),
        )

    def _settle(self, job: Job, state: JobState, revert: bool = False, **values: Any) -> None:
        if revert:
            values["reversion_due_at_ms"] = database_now_ms()
        with self.database.write() as connection:
            if self._update(connection, job, **(settled(state) | values)):
                return
        raise self._stale(job)

    def _update(self, connection: Connection, job: Job, **values: Any) -> bool:
        """Change a job as the holder of its lease; False where it is another worker's by now."""
        mine = (jobs.c.id == job.id, jobs.c.lease == job.lease, jobs.c.state == JobState.RUNNING)
        return connection.execute(jobs.update().where(*mine).values(**values)).rowcount == 1

    def _stale(self, job: Job) -> StaleLeaseError:
        now = self.get(job.id)
        holder = f"worker {now.worker} holds it" if now.state is JobState.RUNNING else f"it is {now.state}"
        return StaleLeaseError(f"The claim on job {job.id} ({job.model_version}) has lapsed: {holder} now.")

    def _delay_s(self, attempt: int) -> float:
        # Jitter spreads the retries of jobs that failed together, when a server that was down comes back.
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        return min(self._backoff_s * 2.0 ** (attempt - 1), self._max_backoff_s) * jitter

    def _select(
        self, *conditions: ColumnElement[bool], order: UnaryExpression[int] | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        newest_first: UnaryExpression[int] = jobs.c.id.desc()
        query = select(jobs).where(*conditions).order_by(newest_first if order is None else order).limit(limit)
        with self.database.read() as connection:
            return tuple(job_from(row) for row in connection.execute(query))


def _version_is_busy() -> ColumnElement[bool]:
    """Another job of the same version runs. It spares vain claims; the unique column `running_version` decides."""
    other = jobs.alias("other")
    same_version = (other.c[name] == jobs.c[name] for name in ("workspace", "model_name", "version"))
    return exists().where(*same_version, other.c.id != jobs.c.id, other.c.state == JobState.RUNNING)
