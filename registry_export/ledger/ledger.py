"""`Ledger`: every query on jobs."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.exc import IntegrityError

from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import LedgerError
from registry_export.ledger.claims import Claims
from registry_export.ledger.jobs import SETTLED, WAITING, Job, JobState
from registry_export.ledger.migrations import migrate
from registry_export.ledger.outbox_reader import OutboxReader, OutboxRow
from registry_export.ledger.reversions import recognise
from registry_export.ledger.rows import held, settled
from registry_export.ledger.tables import jobs
from registry_export.outbox import database_now_ms, stored_workspace

_BATCH = 200
_RECONCILED = "reconciled:"
_UNSETTLED_STATUSES = (Status.QUEUED, Status.RUNNING)


class Ledger(Claims):
    """The jobs in one database, which any number of workers share.

    Every method raises `LedgerUnavailableError` when the database does not answer, `LedgerError` when it refuses.
    """

    def migrate(self) -> None:
        """Create the tables or bring them up to date. Only workers do, and commands that write into the ledger."""
        migrate(self.database)

    # Jobs come in.

    def enqueue(
        self,
        ref: ModelVersionRef,
        trigger: str,
        *,
        targets: str = "",
        workspace: str | None = None,
        previous_status: str | None = None,
        previous: str | None = None,
    ) -> int:
        """Add a job that waits for a worker, and return its number."""
        row = _new_row(ref, trigger, workspace, previous_status, targets, previous)
        with self.database.write() as connection:
            return _insert(connection, {**row, **settled(JobState.QUEUED)})

    def begin(
        self,
        ref: ModelVersionRef,
        trigger: str,
        worker: str,
        lease_s: float = 60.0,
        *,
        targets: str = "",
        workspace: str | None = None,
    ) -> Job | None:
        """Add a job that the caller runs itself, claimed from its first moment.

        Returns:
            The claimed job; None while another job of this version runs.
        """
        row = _new_row(ref, trigger, workspace, None, targets)
        lease = uuid.uuid4().hex
        claimed = {**settled(JobState.RUNNING), **held(workspace, ref, worker, lease, lease_s), "attempt": 1}
        with self.database.write() as connection:
            try:
                with connection.begin_nested():
                    number = _insert(connection, {**row, **claimed})
            except IntegrityError:
                return None
        return replace(self.get(number), first_claim=True)

    def drain_outbox(self, outbox: OutboxReader) -> int:
        """Move the promotions that the hook wrote into the ledger, each one once, and return how many came.

        The two may be different databases. A row is deleted after its job is committed; where that is
        interrupted, the row is read again and found to have come already.
        """
        moved = 0
        while rows := outbox.read(_BATCH):
            with self.database.write() as connection:
                moved += sum(_insert_once(connection, row) for row in rows)
            outbox.delete(rows)
        return moved

    # People look and decide.

    def list(
        self,
        states: Collection[JobState] = (),
        ref: ModelVersionRef | None = None,
        limit: int = 100,
        workspaces: Collection[str | None] = (),
        model: str | None = None,
    ) -> tuple[Job, ...]:
        """Return jobs, newest first: of these states, version, workspaces, model, where any are named."""
        conditions: list[ColumnElement[bool]] = []
        if states:
            conditions.append(jobs.c.state.in_([state.value for state in states]))
        if ref is not None:
            conditions += [jobs.c.model_name == ref.name, jobs.c.version == ref.version]
        if model is not None:
            conditions.append(jobs.c.model_name == model)
        if workspaces:
            conditions.append(jobs.c.workspace.in_([stored_workspace(workspace) for workspace in workspaces]))
        return self._select(*conditions, limit=limit)

    def cancel(self, job_id: int) -> Job:
        """Cancel a job that waits; ask the worker of a running one to stop. Settled jobs stay as they are.

        Returns:
            The job as it stands now; `cancel_requested` while its worker has yet to stop.
        """
        with self.database.write() as connection:
            waiting = jobs.update().where(jobs.c.id == job_id, jobs.c.state.in_(WAITING))
            connection.execute(waiting.values(**settled(JobState.CANCELLED), error="Cancelled."))
            running = jobs.update().where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING)
            connection.execute(running.values(cancel_requested=True))
        return self.get(job_id)

    def retry(self, job_id: int) -> Job:
        """Let a settled job, or one that waits for its next attempt, run now with all its attempts.

        The count of its workers that vanished begins anew as well.

        Raises:
            LedgerError: there is no such job, or it runs.
        """
        with self.database.write() as connection:
            statement = jobs.update().where(jobs.c.id == job_id, jobs.c.state.in_([*SETTLED, *WAITING]))
            values = settled(JobState.QUEUED) | {"attempt": 0, "vanished": 0, "puts_back": None}
            values["available_at_ms"] = database_now_ms()
            done = connection.execute(statement.values(**values, error="", status=None)).rowcount
        job = self.get(job_id)
        if not done:
            raise LedgerError(f"Job {job_id} is {job.state} and cannot be retried now.", remedy="Cancel it first.")
        return job

    def earlier_status(self, job: Job) -> str | None:
        """What the version's status tag said before the hook wrote `queued` for this job; None: nothing."""
        for earlier in self.list(ref=job.model_version, workspaces=(job.workspace,)):
            if earlier.verifies and earlier.state is JobState.DEAD:
                continue  # it changed nothing on the version's page
            if earlier.id < job.id and earlier.state in (JobState.DONE, JobState.DEAD):
                return earlier.status
            if earlier.id <= job.id and earlier.previous_status not in _UNSETTLED_STATUSES:
                return earlier.previous_status
        return None

    def earlier_trigger(self, job: Job) -> str | None:
        """What asked for the version's export that ended last before this job; None: there was none."""
        for earlier in self.list((JobState.DONE, JobState.DEAD), job.model_version, workspaces=(job.workspace,)):
            if earlier.id < job.id and not earlier.verifies:
                return earlier.trigger
        return None

    def exported_before(self, job: Job) -> ModelVersionRef | None:
        """The version that was exported last, before this job, for the same stage or alias; None: none is known."""
        promotion = job.trigger.removeprefix(_RECONCILED)
        if not promotion.startswith(("stage:", "alias:")):
            return None
        earlier = self._select(
            jobs.c.id < job.id,
            jobs.c.workspace == stored_workspace(job.workspace),
            jobs.c.model_name == job.model_version.name,
            jobs.c.version != job.model_version.version,
            jobs.c.trigger.in_([promotion, f"{_RECONCILED}{promotion}"]),
            jobs.c.state == JobState.DONE.value,
            limit=1,
        )
        return earlier[0].model_version if earlier else None


def _new_row(
    ref: ModelVersionRef,
    trigger: str,
    workspace: str | None,
    previous_status: str | None,
    targets: str = "",
    previous: str | None = None,
) -> dict[str, Any]:
    now = database_now_ms()
    return {
        "workspace": stored_workspace(workspace),
        "model_name": ref.name,
        "version": ref.version,
        "trigger": trigger,
        "targets": targets,
        "previous_status": previous_status,
        "previous": previous,
        "attempt": 0,
        "vanished": 0,
        "error": "",
        "run_id": "",
        "worker": "",
        "available_at_ms": now,
        "created_at_ms": now,
    }


def _insert(connection: Connection, row: dict[str, Any]) -> int:
    inserted = connection.execute(jobs.insert().values(row)).inserted_primary_key
    assert inserted is not None, "a single row was inserted"
    return int(inserted[0])


def _insert_once(connection: Connection, promotion: OutboxRow) -> int:
    """Add the job of an outbox row; 0 where it has one already."""
    ref, trigger = promotion.model_version, promotion.trigger
    row = _new_row(ref, trigger, promotion.workspace, promotion.previous_status, previous=promotion.previous)
    row |= {"event": promotion.event, "details": promotion.details, **settled(JobState.QUEUED)}
    # Of two databases each has its own clock: what both agree on is how long ago it was.
    row["created_at_ms"] = database_now_ms() - promotion.age_ms
    try:
        # Both or neither: a row that is read a second time must not take what stands for another promotion.
        with connection.begin_nested():
            row["puts_back"] = recognise(connection, row)
            if row["puts_back"] is None:
                row |= _merged_with_twin(connection, row)
            _insert(connection, row)
    except IntegrityError:
        return 0
    return 1


def _merged_with_twin(connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
    """Settle the same promotion, asked again before anybody began with it: the job that waits will do."""
    same = [jobs.c[name] == row[name] for name in ("workspace", "model_name", "version", "trigger")]
    waiting = (*same, jobs.c.state == JobState.QUEUED, jobs.c.puts_back.is_(None))
    twin = connection.execute(select(jobs.c.id).where(*waiting)).scalar()
    if twin is None:
        return {}
    made = row["version"] if row["trigger"].startswith("alias:") else row["trigger"].partition(":")[2]
    if row["previous"] not in (None, made):
        # Promoted, taken back and promoted again: what to put back is what the last one replaced, and who let it
        # through is who let the last one through.
        last = {name: row[name] for name in ("previous", "details")}
        connection.execute(jobs.update().where(jobs.c.id == twin).values(last))
    return {"state": JobState.IGNORED, "error": f"Job {twin} was waiting for the same promotion already."}
