"""`LearntCosts`: what each kind of step took, for models of each size, over all workers of the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import Connection, case, select
from sqlalchemy.exc import IntegrityError

from registry_export.costs import StepCost
from registry_export.errors import LedgerError
from registry_export.ledger.database import Database
from registry_export.ledger.tables import step_costs
from registry_export.outbox import database_now_ms

_MEMORY = 8
"""Of so many measurements a mean is made; older ones fade."""

_log = logging.getLogger(__name__)


class LearntCosts:
    """Running means of the seconds of steps, and their largest peaks, which fade too.

    Args:
        database: The ledger's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> Mapping[tuple[str, int], StepCost]:
        """Return all that was learnt, by work and size class; nothing, with a warning, where the ledger is down."""
        try:
            with self._database.read() as connection:
                rows = connection.execute(select(step_costs)).all()
        except LedgerError as error:
            _log.warning("What steps take is estimated anew: %s", error)
            return {}
        return {(row.work, row.size_class): StepCost(row.seconds, row.peak_bytes, row.times) for row in rows}

    def learn(self, work: str, size_class: int, seconds: float, peak_bytes: int) -> None:
        """Remember what one run of a step took; where the ledger is down it is forgotten, with a warning.

        Args:
            work: The step's name.
            size_class: As `costs.size_class` gives it.
            seconds: In its child.
            peak_bytes: Resident memory of the child.
        """
        try:
            with self._database.write() as connection:
                _learn(connection, work, size_class, seconds, peak_bytes)
        except LedgerError as error:
            _log.warning("What %s took is not remembered: %s", work, error)


def _learn(connection: Connection, work: str, size_class: int, seconds: float, peak_bytes: int) -> None:
    key = {"work": work, "size_class": size_class}
    table = step_costs.c
    # In the database's own arithmetic: two workers that learn at once both count.
    weight = case((table.times + 1 < _MEMORY, table.times + 1), else_=_MEMORY)
    faded = table.peak_bytes - (table.peak_bytes - peak_bytes) // _MEMORY
    update = step_costs.update().where(table.work == work, table.size_class == size_class)
    update = update.values(
        seconds=table.seconds + (seconds - table.seconds) / weight,
        peak_bytes=case((table.peak_bytes < peak_bytes, peak_bytes), else_=faded),
        times=table.times + 1,
        updated_at_ms=database_now_ms(),
    )
    if connection.execute(update).rowcount:
        return
    first = {"seconds": seconds, "peak_bytes": peak_bytes, "times": 1, "updated_at_ms": database_now_ms()}
    try:
        with connection.begin_nested():
            connection.execute(step_costs.insert().values(**key, **first))
    except IntegrityError:
        connection.execute(update)  # another worker made the row meanwhile
