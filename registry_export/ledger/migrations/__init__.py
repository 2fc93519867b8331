"""The ledger's tables from one version of this package to the next, by alembic, and in a version table of our own.

The tables may live in MLflow's database, whose `alembic_version` is MLflow's. `versions/` holds one revision a file, in
a row without branches, and they lead forward only. Workers of the version before go on working while a newer one
migrates, so a revision adds what they may leave out (a column that is nullable or has a default in the database) and
takes nothing away that they use. SQLite adds columns in place. Alembic's batch mode, for what SQLite cannot, makes
a table anew from what it reads back: it loses AUTOINCREMENT, by which no job's number is given twice.
"""

from __future__ import annotations

import logging

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text

from registry_export.errors import LedgerError
from registry_export.ledger.database import Database

VERSION_TABLE = "registry_export_alembic_version"

HEAD = "0003"
"""The newest revision. Written down, so that alembic is imported only where there is something to migrate."""

_versions = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))

_ADVISORY_LOCK = 7_243_118_026
_REGISTRY_TABLE = "registered_models"

_logger = logging.getLogger(__name__)


def migrate(database: Database) -> None:
    """Create the tables, or bring older ones up to date. Any number of workers may do so at once.

    Raises:
        LedgerError: the tables were written by a newer version of this package, or may not be created or changed.
        LedgerUnavailableError: the database does not answer.
    """
    _use_write_ahead_log(database)
    with database.read() as connection:
        if _revision(connection) == HEAD:
            return
    with database.write() as connection:
        if database.dialect == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        found = _revision(connection)  # another worker may have been faster
        if found != HEAD:
            _upgrade(connection, found)


def _revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None: there are none, or they are from before alembic."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(_versions.c.version_num)).scalar()


def _upgrade(connection: Connection, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "registry_export.ledger:migrations")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(
            f"The ledger's tables have revision {found}, but this registry-export knows {HEAD} as the newest.",
            remedy="Upgrade registry-export on this machine to the version of the other workers.",
        )
    command.upgrade(config, "head")
    _logger.info("The ledger's tables are at revision %s now.", HEAD)


def _use_write_ahead_log(database: Database) -> None:
    """Let readers and a writer of our own SQLite file not wait for each other; MLflow's file stays as it is."""
    if database.dialect != "sqlite":
        return
    with database.read() as connection:
        if not inspect(connection).has_table(_REGISTRY_TABLE):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
