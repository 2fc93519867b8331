"""`Verifications`: when the ledger's versions were verified last, and what it has heard of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import and_, case, func, or_, select

from registry_export.entities import ModelVersionRef
from registry_export.ledger.database import Database
from registry_export.ledger.jobs import SETTLED, VERIFY, JobState
from registry_export.ledger.tables import jobs
from registry_export.outbox import stored_workspace


@dataclass(frozen=True)
class History:
    """What is known of a version's jobs.

    Attributes:
        latest_job: The newest settled one; 0: there is none.
        verified_ms: When the version's exports were verified last, whatever came of it, in milliseconds since 1970 by
            the database's clock: by a job for that, else by the first export (a later one keeps what is verified).
            0: never.
        active: Whether a job waits or runs.
    """

    latest_job: int = 0
    verified_ms: int = 0
    active: bool = False


class Verifications:
    """Reads the jobs of all versions at once.

    Args:
        database: The ledger's.
        workspace: The MLflow workspace to work in.
    """

    def __init__(self, database: Database, workspace: str | None = None) -> None:
        self._database = database
        self._workspace = stored_workspace(workspace)

    def histories(self) -> Mapping[ModelVersionRef, History]:
        """Return the history of every version that has jobs."""
        verifies = or_(jobs.c.trigger == VERIFY, jobs.c.trigger.startswith(f"{VERIFY}:"))
        is_settled = jobs.c.state.in_([state.value for state in SETTLED])
        exported = and_(~verifies, jobs.c.state == JobState.DONE.value)
        query = (
            select(
                jobs.c.model_name,
                jobs.c.version,
                func.max(case((is_settled, jobs.c.id))),
                func.max(case((and_(verifies, is_settled), jobs.c.updated_at_ms))),
                func.min(case((exported, jobs.c.updated_at_ms))),
                func.max(case((is_settled, 0), else_=1)),
            )
            .where(jobs.c.workspace == self._workspace)
            .group_by(jobs.c.model_name, jobs.c.version)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {
            ModelVersionRef(name, version): History(latest or 0, again or first or 0, bool(active))
            for name, version, latest, again, first, active in rows
        }
