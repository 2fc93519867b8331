"""The worker's end of the outbox: read the rows in order, delete those that have arrived in the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select

from registry_export.entities import ModelVersionRef
from registry_export.ledger.database import Database
from registry_export.outbox import database_now_ms, outbox, outbox_exists

_ANY = select(outbox.c.id).limit(1)


@dataclass(frozen=True)
class OutboxRow:
    """A promotion as the hook wrote it: see :data:`registry_export.outbox.outbox`.

    Attributes:
        age_ms: How long ago that was when it was read, by the registry's own clock.
    """

    id: int
    event: str
    model_version: ModelVersionRef
    trigger: str
    workspace: str | None
    previous_status: str | None
    previous: str | None
    details: str | None = None
    age_ms: int = 0


class OutboxReader:
    """Reads the outbox in the registry's database, and deletes from it; more rights it does not need.

    The table is the hook's to create, with the first promotion: a worker that came first would own it, and the server,
    as another role, could not write to it. Until then it counts as empty.

    Args:
        uri: SQLAlchemy URL of the registry's database.
    """

    def __init__(self, uri: str) -> None:
        self._database = Database(uri, "registry")
        self._was_there = False

    def exists(self) -> bool:
        """Whether it has been created."""
        with self._database.read() as connection:
            self._was_there = outbox_exists(connection)
        return self._was_there

    def read(self, limit: int) -> tuple[OutboxRow, ...]:
        """Return the oldest rows, at most `limit` of them."""
        if not (self._was_there or self.exists()):
            return ()
        with self._database.read() as connection:
            age_ms = (database_now_ms() - outbox.c.created_at_ms).label("age_ms")
            rows = connection.execute(select(outbox, age_ms).order_by(outbox.c.id).limit(limit)).all()
        return tuple(
            OutboxRow(
                id=row.id,
                event=row.event,
                model_version=ModelVersionRef(row.model_name, row.version),
                trigger=row.trigger,
                workspace=row.workspace,
                previous_status=row.previous_status,
                previous=row.previous,
                details=row.details,
                age_ms=max(0, row.age_ms),
            )
            for row in rows
        )

    def is_empty(self) -> bool:
        """Whether nothing waits: a look that costs little."""
        if not (self._was_there or self.exists()):
            return True
        with self._database.read() as connection:
            return connection.execute(_ANY).first() is None

    def delete(self, rows: Iterable[OutboxRow]) -> None:
        """Delete rows; those that another worker has deleted already are no error."""
        ids = [row.id for row in rows]
        with self._database.write() as connection:
            connection.execute(outbox.delete().where(outbox.c.id.in_(ids)))

    def dispose(self) -> None:
        """Close every connection."""
        self._database.dispose()
