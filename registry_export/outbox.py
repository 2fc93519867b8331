"""The outbox: one table in the registry's own database, where a promotion leaves a row in its own transaction.

The hook inserts, the ledger moves the rows on and deletes them. This schema is the first one and stays the only one:
a server that has not been restarted since an upgrade writes it, and so does one that was upgraded before its workers.
The table has a `MetaData` of its own, because a table in MLflow's would break MLflow's own check of its tables.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text, inspect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.sql.compiler import SQLCompiler

STATUS_TAG = "registry_export.status"
"""The tag in which the hook and the worker show how a version stands."""

TRIGGER_TAG = "registry_export.trigger"
"""The tag that says what asked for it."""

VERIFIED_ALIAS_SUFFIX = "-verified"
"""Aliases with this ending are set by a worker on what it has verified: they ask for nothing."""

UNPROMOTED_STAGES = frozenset({"None", "Archived", "Deleted_Internal"})
"""The stages that are no promotion. MLflow marks a deleted version with the last one."""

ABSENT = ""
"""What stands in `previous` where the promotion created the alias."""

_DEFAULT_WORKSPACE = "default"

_COPY_SOURCE = re.compile(r"models:/+(?P<name>[^/@]+)/(?P<version>\d+)/?")

metadata = MetaData()


def copied_from(source: str | None) -> str | None:
    """Return `name/version` of the registered version that a version's source names; None where it is no copy."""
    found = _COPY_SOURCE.fullmatch(source or "")
    return f"{found['name']}/{found['version']}" if found else None


def stored_workspace(workspace: str | None) -> str:
    """Give the one name of no workspace at all: MLflow calls it `default` in its tables and nothing elsewhere."""
    return "" if workspace in (None, _DEFAULT_WORKSPACE) else str(workspace)


class database_now_ms(FunctionElement[int]):  # noqa: N801 - stands in SQL expressions as `func.now()` does
    """The database's clock in milliseconds since 1970, UTC: the only clock that several machines agree on."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now_ms)
def _now_standard(_element: Any, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(database_now_ms, "sqlite")
def _now_sqlite(_element: Any, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"


@compiles(database_now_ms, "mysql")
@compiles(database_now_ms, "mariadb")
def _now_mysql(_element: Any, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"


@compiles(database_now_ms, "mssql")
def _now_mssql(_element: Any, _compiler: SQLCompiler, **_options: Any) -> str:
    return "DATEDIFF_BIG(MILLISECOND, '1970-01-01', SYSUTCDATETIME())"


outbox = Table(
    "registry_export_outbox",
    metadata,
    # The order of arrival. SQLite would give a deleted row's number to the next one without AUTOINCREMENT.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    # The row's identity wherever it goes: numbers begin again when a registry's database is made anew.
    Column("event", String(32), nullable=False, unique=True),
    Column("workspace", String(63), nullable=True),
    Column("model_name", String(256), nullable=False),
    Column("version", String(32), nullable=False),
    Column("trigger", String(300), nullable=False),
    # What the status tag said before the hook wrote `queued`, for a promotion that no rule wants.
    Column("previous_status", String(64), nullable=True),
    # What the promotion replaced, to be put back if its export fails: the earlier stage, or the version that the alias
    # pointed to, `ABSENT` where there was none. NULL: nothing to put back, or not known.
    Column("previous", String(32), nullable=True),
    # A JSON object for what only the promotion's own transaction can know and a later hook may tell: who asked, which
    # versions a transition archived. MLflow's tables do not name the user, so nothing is written yet; readers pass over
    # keys that they do not know. Gates and approvals are no promotions: they will have tables of their own.
    Column("details", Text, nullable=True),
    Column("created_at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)


def create_outbox(bind: Engine | Connection) -> None:
    """Create the table where it is absent.

    Several servers may do so at once: whoever comes second finds the table there.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database refused and the table is not there.
    """
    metadata.create_all(bind, tables=[outbox], checkfirst=True)


def outbox_exists(bind: Engine | Connection) -> bool:
    """Whether the table is there."""
    return bool(inspect(bind).has_table(outbox.name))
