"""`Promotions`: what the reconciler remembers between its sweeps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from registry_export.entities import ModelVersionRef
from registry_export.errors import LedgerError
from registry_export.ledger.database import Database
from registry_export.ledger.rows import milliseconds
from registry_export.ledger.tables import cursors, promotions
from registry_export.outbox import database_now_ms, stored_workspace


@dataclass(frozen=True)
class Promotion:
    """A version that is promoted.

    Attributes:
        model_version: Which.
        promotion: The stage or alias, written as a trigger: `stage:Staging`, `alias:champion`.
        missing: Digest of what was missing when the reconciler queued an export for it last; empty when
            everything was there when it looked last.
    """

    model_version: ModelVersionRef
    promotion: str
    missing: str = ""


class Promotions:
    """The promotions that were seen, and how far the sweeps have come.

    Args:
        database: The ledger's.
        workspace: The MLflow workspace they belong to.
    """

    def __init__(self, database: Database, workspace: str | None = None) -> None:
        self._database = database
        self._workspace = stored_workspace(workspace)

    def take_turn(self, interval_s: float) -> bool:
        """Whether the next sweep is the caller's: one worker sweeps in each interval, by the database's clock."""
        name, now = f"sweep|{self._workspace}", database_now_ms()
        due = now + milliseconds(interval_s)
        with self._database.write() as connection:
            mine = cursors.update().where(cursors.c.name == name, cursors.c.value_ms <= now)
            if connection.execute(mine.values(value_ms=due)).rowcount == 1:
                return True
            if connection.execute(select(cursors.c.name).where(cursors.c.name == name)).first() is not None:
                return False
            try:
                with connection.begin_nested():
                    connection.execute(cursors.insert().values(name=name, value_ms=due))
            except IntegrityError:
                return False  # another worker made the row, and takes the turn
            return True

    def cursor(self, name: str) -> int:
        """Return how far a sweep has come, in milliseconds; 0 at first."""
        query = select(cursors.c.value_ms).where(cursors.c.name == f"{name}|{self._workspace}")
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def set_cursor(self, name: str, value_ms: int) -> None:
        """Remember how far a sweep has come."""
        key = f"{name}|{self._workspace}"
        with self._database.write() as connection:
            statement = cursors.update().where(cursors.c.name == key).values(value_ms=value_ms)
            if connection.execute(statement).rowcount == 0:
                connection.execute(cursors.insert().values(name=key, value_ms=value_ms))

    def now_ms(self) -> int:
        """The database's clock."""
        with self._database.read() as connection:
            return int(connection.execute(select(database_now_ms())).scalar_one())

    def of_kind(self, kind: str) -> tuple[Promotion, ...]:
        """Return what was seen as promoted by a `stage` or by an `alias`."""
        return self._select(promotions.c.promotion.startswith(f"{kind}:", autoescape=True))

    def of_version(self, ref: ModelVersionRef) -> tuple[Promotion, ...]:
        """Return what was seen of one version."""
        return self._select(promotions.c.model_name == ref.name, promotions.c.version == ref.version)

    def of_models(self, names: Collection[str]) -> tuple[Promotion, ...]:
        """Return what was seen of the versions of some registered models."""
        return self._select(promotions.c.model_name.in_(names))

    def counts(self) -> tuple[int, int]:
        """Return how many promotions were seen, and of how many versions."""
        mine = promotions.c.workspace == self._workspace
        versions = select(promotions.c.model_name, promotions.c.version).where(mine).distinct().subquery()
        with self._database.read() as connection:
            seen = connection.execute(select(func.count()).select_from(promotions).where(mine)).scalar_one()
            return int(seen), int(connection.execute(select(func.count()).select_from(versions)).scalar_one())

    def all(self) -> tuple[Promotion, ...]:
        """Return everything that was seen as promoted."""
        return self._select()

    def longest_unchecked(self, count: int) -> tuple[Promotion, ...]:
        """Return those that were looked at longest ago."""
        return self._select(limit=count)

    def put(self, promotion: Promotion) -> None:
        """Remember a promotion, and that it was looked at just now."""
        values: dict[str, object] = {"missing": promotion.missing, "checked_at_ms": database_now_ms()}
        with self._database.write() as connection:
            if connection.execute(promotions.update().where(*self._is(promotion)).values(values)).rowcount == 0:
                self._insert(connection, promotion, values)

    def put_all(self, seen: Collection[Promotion]) -> None:
        """Remember promotions, as `put` does each, in one transaction."""
        if not seen:
            return
        rows = [{**self._key(promotion), "missing": promotion.missing} for promotion in seen]
        # In executemany each statement is sent once, with all its parameters behind it.
        same = [column == bindparam(f"the_{column.name}") for column in promotions.primary_key]
        keys = [{f"the_{name}": value for name, value in self._key(promotion).items()} for promotion in seen]
        try:
            with self._database.write() as connection:
                connection.execute(promotions.delete().where(*same), keys)
                connection.execute(promotions.insert().values(checked_at_ms=database_now_ms()), rows)
        except LedgerError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            for promotion in seen:  # another sweep wrote some of them in between
                self.put(promotion)

    def forget(self, gone: Collection[Promotion]) -> None:
        """Forget promotions that hold no longer."""
        if not gone:
            return
        with self._database.write() as connection:
            for promotion in gone:
                connection.execute(promotions.delete().where(*self._is(promotion)))

    def _insert(self, connection: Connection, promotion: Promotion, values: dict[str, object]) -> None:
        connection.execute(promotions.insert().values(**self._key(promotion), **values))

    def _key(self, promotion: Promotion) -> dict[str, str]:
        return {
            "workspace": self._workspace,
            "model_name": promotion.model_version.name,
            "version": promotion.model_version.version,
            "promotion": promotion.promotion,
        }

    def _is(self, promotion: Promotion) -> tuple[ColumnElement[bool], ...]:
        return (
            promotions.c.workspace == self._workspace,
            promotions.c.model_name == promotion.model_version.name,
            promotions.c.version == promotion.model_version.version,
            promotions.c.promotion == promotion.promotion,
        )

    def _select(self, *conditions: ColumnElement[bool], limit: int | None = None) -> tuple[Promotion, ...]:
        query = select(promotions).where(promotions.c.workspace == self._workspace, *conditions)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(promotions.c.checked_at_ms).limit(limit)).all()
        return tuple(
            Promotion(ModelVersionRef(row.model_name, row.version), row.promotion, row.missing) for row in rows
        )
