"""`Reversions`: promotions that workers put back, and how they recognise themselves when those come in again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, or_, select

from registry_export.entities import ModelVersionRef
from registry_export.ledger.database import Database
from registry_export.ledger.jobs import Job, JobState
from registry_export.ledger.rows import job_from, milliseconds
from registry_export.ledger.tables import jobs, own_promotions
from registry_export.outbox import database_now_ms, stored_workspace

_NEWEST = 100


class Reversions:
    """What is to be put back, and what a worker is about to promote itself.

    Args:
        database: The ledger's.
        workspace: The MLflow workspace to work in.
    """

    def __init__(self, database: Database, workspace: str | None = None) -> None:
        self._database = database
        self._workspace = stored_workspace(workspace)
        due = (jobs.c.workspace == self._workspace, jobs.c.reversion_due_at_ms <= database_now_ms())
        self._any_due = select(jobs.c.id).where(*due).limit(1)

    def take(self, again_after_s: float) -> Job | None:
        """Take the oldest job whose promotion is to be put back now; None where there is none.

        Args:
            again_after_s: When it is due again, in seconds, unless `finish` is called.
        """
        now = database_now_ms()
        due = (jobs.c.workspace == self._workspace, jobs.c.reversion_due_at_ms <= now)
        with self._database.read() as connection:  # seldom is there any: nobody is kept from writing for a look
            if connection.execute(self._any_due).first() is None:
                return None
        with self._database.write() as connection:
            row = connection.execute(select(jobs).where(*due).order_by(jobs.c.id).limit(1)).first()
            if row is None:
                return None
            mine = jobs.update().where(jobs.c.id == row.id, *due)
            later = now + milliseconds(again_after_s)
            taken = connection.execute(mine.values(reversion_due_at_ms=later)).rowcount == 1
        return job_from(row) if taken else None

    def finish(self, job: Job) -> None:
        """Nothing is left to do about a job's promotion."""
        with self._database.write() as connection:
            connection.execute(own_promotions.delete().where(own_promotions.c.job_id == job.id))
            connection.execute(jobs.update().where(jobs.c.id == job.id).values(reversion_due_at_ms=None))

    def announce(self, job: Job, ref: ModelVersionRef, trigger: str) -> None:
        """Write down, before the registry is asked, which promotion will come back through the hook.

        Args:
            job: The job whose promotion is put back.
            ref: The version that will be promoted.
            trigger: How the hook will call it.
        """
        row = {"model_name": ref.name, "version": ref.version, "trigger": trigger, "seen": False}
        with self._database.write() as connection:
            known = own_promotions.update().where(own_promotions.c.job_id == job.id)
            if connection.execute(known.values(row)).rowcount == 0:
                row |= {"job_id": job.id, "workspace": self._workspace}
                connection.execute(own_promotions.insert().values(row))

    def announced(self, job: Job) -> tuple[ModelVersionRef, str] | None:
        """Return what was announced for a job, by a worker that may have died since."""
        query = select(own_promotions).where(own_promotions.c.job_id == job.id)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else (ModelVersionRef(row.model_name, row.version), row.trigger)

    def same_kind(self, job: Job) -> tuple[Job, ...]:
        """Return the jobs of promotions that could have replaced one another, newest first.

        Of an alias: all of the model's jobs for it. Of a stage: all of the version's jobs for stages. Those that were
        set aside are left out.
        """
        kind, _, value = job.trigger.removeprefix("reconciled:").partition(":")
        conditions = [jobs.c.model_name == job.model_version.name, jobs.c.state != JobState.IGNORED]
        if kind == "alias":
            conditions.append(jobs.c.trigger.in_([f"alias:{value}", f"reconciled:alias:{value}"]))
        else:
            conditions.append(jobs.c.version == job.model_version.version)
            conditions.append(or_(jobs.c.trigger.startswith("stage:"), jobs.c.trigger.startswith("reconciled:stage:")))
        query = select(jobs).where(jobs.c.workspace == self._workspace, *conditions)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(jobs.c.id.desc()).limit(_NEWEST))
            return tuple(job_from(row) for row in rows)


def recognise(connection: Connection, row: Mapping[str, Any]) -> int | None:
    """Recognise a promotion as a worker's own, once; the job that it puts back, or None for anybody else's.

    A person who promotes the same version to the same place in the same moment may be taken for the worker; the
    worker's own promotion is then taken for theirs, and theirs is exported.
    """
    same: list[ColumnElement[bool]] = [
        own_promotions.c[name] == row[name] for name in ("workspace", "model_name", "version", "trigger")
    ]
    unseen = (*same, ~own_promotions.c.seen)
    job_id = connection.execute(select(own_promotions.c.job_id).where(*unseen)).scalar()
    if job_id is None:
        return None
    mine = own_promotions.update().where(own_promotions.c.job_id == job_id, *unseen)
    return int(job_id) if connection.execute(mine.values(seen=True)).rowcount == 1 else None
