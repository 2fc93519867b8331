"""Ledgers of every earlier version are brought up to date, on every database that can keep one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import LedgerError
from registry_export.ledger import Database, JobState, Ledger
from registry_export.ledger.migrations import HEAD, VERSION_TABLE
from registry_export.ledger.migrations import __path__ as scripts
from registry_export.ledger.tables import metadata
from registry_export.outbox import create_outbox
from tests.contract import schema_1

TABLES = sorted(set(metadata.tables) - {"registry_export_schema"})


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request, tmp_path, postgres_uri):
    return f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else postgres_uri()


@pytest.fixture
def database(uri):
    database = Database(uri, "ledger")
    yield database
    database.dispose()


@pytest.fixture
def ledger(uri):
    ledger = Ledger(uri)
    yield ledger
    ledger.dispose()


def rows_of(database, table):
    with database.read() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")
        return [dict(row) for row in found.mappings()]


def change(database, *statements):
    with database.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def revisions_of(database):
    return [row["version_num"] for row in rows_of(database, VERSION_TABLE)]


def test_a_ledger_from_before_alembic_is_taken_over_with_every_row(database, ledger):
    schema_1.create(database)
    before = {table: rows_of(database, table) for table in TABLES}
    ledger.migrate()
    assert revisions_of(database) == [HEAD]
    for table in TABLES:
        added = {"vanished": 0, "details": None} if table == "registry_export_jobs" else {}
        assert rows_of(database, table) == [{**row, **added} for row in before[table]], table
        assert before[table], f"nothing was tried on {table}"


def test_the_jobs_of_a_ledger_that_was_taken_over_go_on(database, ledger):
    schema_1.create(database)
    running = ledger_job(database)
    ledger.migrate()
    ledger.complete(running, Status.VERIFIED)
    assert ledger.get(3).state is JobState.DONE
    assert ledger.claim("worker").id == 2
    assert ledger.enqueue(ModelVersionRef("digits", "9"), "manual") == 5, "the number of a deleted job is given again"


def ledger_job(database):
    """The running job as a worker from before alembic holds it."""
    from dataclasses import dataclass

    @dataclass
    class Held:
        id: int
        lease: str

    (row,) = [row for row in rows_of(database, "registry_export_jobs") if row["lease"]]
    return Held(row["id"], row["lease"])


def test_the_youngest_tables_that_an_old_ledger_lacks_are_made(database, ledger):
    schema_1.create(database)
    change(database, "DROP TABLE registry_export_step_costs", "DROP TABLE registry_export_known_exports")
    ledger.migrate()
    assert differences(database) == []


@pytest.mark.parametrize("old", [True, False], ids=["an old ledger", "an empty database"])
def test_workers_that_start_at_once_migrate_once(uri, database, old):
    if old:
        schema_1.create(database)
    barrier = threading.Barrier(4)

    def migrate(_):
        ledger = Ledger(uri)
        barrier.wait()
        ledger.migrate()
        ledger.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, range(4)))
    assert revisions_of(database) == [HEAD]
    assert len(rows_of(database, "registry_export_jobs")) == (3 if old else 0)


def test_a_ledger_of_a_newer_version_is_refused_and_stays_as_it_is(database, ledger):
    ledger.migrate()
    change(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(LedgerError, match=rf"revision 9999, but .* knows {HEAD}.*Upgrade registry-export") as caught:
        ledger.migrate()
    assert not caught.value.transient, "a worker would ask again for ever"
    assert revisions_of(database) == ["9999"]


@pytest.mark.parametrize("old", [True, False], ids=["an old ledger", "an empty database"])
def test_a_worker_from_before_alembic_finds_a_version_that_it_refuses(database, ledger, old):
    if old:
        schema_1.create(database)
    ledger.migrate()
    assert rows_of(database, "registry_export_schema") == [{"version": 2}], "such a worker knows 1"


def test_a_migration_that_fails_half_way_leaves_the_ledger_as_it_was(database, ledger):
    schema_1.create(database)
    change(
        database,
        "DROP TABLE registry_export_step_costs",
        "ALTER TABLE registry_export_jobs ADD COLUMN vanished INTEGER",
    )
    with pytest.raises(LedgerError, match="vanished"):
        ledger.migrate()
    with database.read() as connection:
        present = sqlalchemy.inspect(connection).get_table_names()
    assert VERSION_TABLE not in present
    assert "registry_export_step_costs" not in present
    assert len(rows_of(database, "registry_export_jobs")) == 3


def differences(database):
    """What alembic would change to lead from the database to `tables.py`."""

    def ours(name, kind, _parents):
        return kind != "table" or (name.startswith("registry_export_") and name != "registry_export_outbox")

    options = {
        "version_table": VERSION_TABLE,
        "include_name": ours,
        "compare_type": True,
        "compare_server_default": True,
    }
    with database.read() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


@pytest.mark.parametrize("old", [True, False], ids=["an old ledger", "an empty database"])
def test_the_migrations_lead_to_the_tables_that_the_code_works_with(database, ledger, old):
    if old:
        schema_1.create(database)
    with database.write() as connection:
        create_outbox(connection)
    ledger.migrate()
    assert differences(database) == []
    change(database, "ALTER TABLE registry_export_jobs DROP COLUMN vanished")
    assert differences(database) != [], "the comparison would not see a column that is missing"


def test_the_newest_revision_is_the_one_that_is_written_down():
    assert ScriptDirectory(scripts[0]).get_heads() == [HEAD]


def test_mlflows_own_version_table_in_the_same_database_is_not_touched(database, ledger):
    change(
        database,
        "CREATE TABLE registered_models (name VARCHAR(256))",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('mlflows own')",
    )
    ledger.migrate()
    assert rows_of(database, "alembic_version") == [{"version_num": "mlflows own"}]
    assert revisions_of(database) == [HEAD]


def run(code, *arguments):
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_migrating_changes_no_logging_and_a_ledger_that_is_up_to_date_needs_no_alembic(uri):
    code = """
        import logging, sys
        from registry_export.ledger import Ledger
        speaking = logging.getLogger("somebody.elses")
        speaking.setLevel(logging.INFO)
        logging.basicConfig(level=logging.WARNING)
        before = (logging.root.level, list(logging.root.handlers))
        assert "alembic" not in sys.modules, "alembic is imported with the package"
        Ledger(sys.argv[1]).migrate()
        assert before == (logging.root.level, list(logging.root.handlers))
        assert speaking.level == logging.INFO and not speaking.disabled
        print("alembic" in sys.modules)
    """
    assert run(code, uri) == "True", "the first worker creates the tables by alembic"
    assert run(code, uri) == "False", "the next one starts slower than it could"


def test_the_hook_brings_neither_alembic_nor_the_ledger_into_mlflows_server():
    code = """
        import sys
        import mlflow.store.model_registry.dbmodels.models
        assert "alembic" not in sys.modules, "MLflow itself imports it by now: compare with what it has"
        import registry_export.hook, registry_export.queueing
        print(sorted(name for name in sys.modules if name in ("alembic", "registry_export.ledger")))
    """
    assert run(code) == "[]"
