"""`Census`: how many jobs stand where, for whoever watches the workers from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from registry_export.ledger.database import Database
from registry_export.ledger.jobs import WAITING, JobState
from registry_export.ledger.tables import jobs
from registry_export.outbox import database_now_ms

_BY_STATE = select(jobs.c.state, func.count()).group_by(jobs.c.state)
_OLDEST = select(database_now_ms(), func.min(jobs.c.created_at_ms)).where(jobs.c.state.in_(WAITING))


@dataclass(frozen=True)
class Count:
    """All jobs of the ledger, of every workspace.

    Attributes:
        states: How many are in each state; all states are there.
        oldest_waiting_s: How long ago the oldest of those that wait was promoted, in seconds; 0: none waits.
        taken_at: When, by the database's clock.
    """

    states: Mapping[JobState, int]
    oldest_waiting_s: float
    taken_at: datetime


class Census:
    """Counts the jobs.

    Args:
        database: The ledger's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self) -> Count:
        """Count them.

        Raises:
            LedgerUnavailableError: the ledger does not answer.
        """
        with self._database.read() as connection:
            found = {str(row[0]): int(row[1]) for row in connection.execute(_BY_STATE)}
            now_ms, oldest_ms = connection.execute(_OLDEST).one()
        states = {state: found.get(state.value, 0) for state in JobState}
        waited_ms = 0 if oldest_ms is None else max(0, now_ms - oldest_ms)
        return Count(states, waited_ms / 1000, datetime.fromtimestamp(now_ms / 1000, UTC))
