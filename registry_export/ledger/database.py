"""One database with its transactions: SQLite and PostgreSQL under the same rules, errors in our own words."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from registry_export.errors import LedgerError, LedgerUnavailableError

_BUSY_TIMEOUT_MS = 60_000
_WRITES = "registry_export_writes"
_INSUFFICIENT_PRIVILEGE = "42501"  # PostgreSQL's code
_RIGHTS = "Grant the role what docs/operations.md lists under Rights."
_POSTGRESQL_DRIVERS = ("psycopg2", "psycopg")  # the extra `postgresql` brings the first


class Database:
    """An engine, and transactions on it.

    Args:
        uri: SQLAlchemy URL.
        what: What the database is called in errors (`ledger`, `outbox`).
    """

    def __init__(self, uri: str, what: str) -> None:
        self._what = what
        try:
            url = sqlalchemy.make_url(uri)
            _make_folder(url)
            self.engine: Engine = sqlalchemy.create_engine(_with_driver(url), pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise LedgerError(
                f"The {what}'s address is no SQLAlchemy URL: {error}.",
                remedy="Write sqlite:////absolute/path.db or postgresql+psycopg2://user:password@host/database.",
            ) from error
        except ModuleNotFoundError as error:
            raise LedgerError(
                f"The {what}'s database needs the Python package {error.name!r}, which is not installed.",
                remedy="For PostgreSQL: pip install 'registry-export[postgresql]'.",
            ) from error
        except OSError as error:
            raise LedgerError(f"The {what}'s folder cannot be made: {error}.") from error
        if url.get_backend_name() == "sqlite":
            event.listen(self.engine, "connect", _on_sqlite_connect)
            event.listen(self.engine, "begin", _on_sqlite_begin)

    @property
    def dialect(self) -> str:
        """The database's kind: `sqlite`, `postgresql`, ..."""
        return self.engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection for reading.

        Raises:
            LedgerUnavailableError: the database does not answer.
            LedgerError: the database refused.
        """
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that holds SQLite's write lock from its first moment.

        A transaction that reads before it writes cannot wait for the lock on SQLite: it fails at once
        with "database is locked" when another wrote in between.

        Raises:
            LedgerUnavailableError: the database does not answer.
            LedgerError: the database refused.
        """
        with self._translated(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        place = self.engine.url.render_as_string(hide_password=True)
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise LedgerUnavailableError(
                f"The {self._what}'s database {place} did not answer: {_reason(error)}.",
                remedy="It is asked again by itself; check that it runs and that the address is right.",
            ) from error
        except SQLAlchemyError as error:
            remedy = _RIGHTS if _is_about_rights(error) else ""
            raise LedgerError(
                f"The {self._what}'s database {place} refused: {_reason(error)}.", remedy=remedy
            ) from error


def _with_driver(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """Name the driver where a PostgreSQL URL does not.

    SQLAlchemy's choice depends on its version (psycopg2 before 2.1, psycopg 3 since); ours is what is installed.
    """
    if url.drivername == "postgresql":
        for driver in _POSTGRESQL_DRIVERS:
            if importlib.util.find_spec(driver) is not None:
                return url.set(drivername=f"postgresql+{driver}")
    return url


def missing_file(uri: str) -> str | None:
    """Return the path of the SQLite file that an address names and that is not there; None for any other address.

    Args:
        uri: SQLAlchemy URL; one that is none is for `Database` to refuse.
    """
    try:
        file = _file_of(sqlalchemy.make_url(uri))
    except ArgumentError:
        return None
    return None if file is None or file.exists() else str(file)


def _file_of(url: sqlalchemy.URL) -> Path | None:
    """Return the file that an address names by its path; None: it has none, or names it as SQLite's own URIs do."""
    named = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:") and "uri" not in url.query
    return Path(str(url.database)) if named else None


def _make_folder(url: sqlalchemy.URL) -> None:
    file = _file_of(url)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, later than we want; `_on_sqlite_begin` does it.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")


def _on_sqlite_begin(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_about_rights(error: SQLAlchemyError) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else None
    return _INSUFFICIENT_PRIVILEGE in (getattr(cause, "pgcode", None), getattr(cause, "sqlstate", None))


def _reason(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
