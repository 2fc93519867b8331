"""The PostgreSQL role of docs/operations.md keeps the ledger and reads the outbox; each of its rights is needed."""

from __future__ import annotations

import pytest
import sqlalchemy

from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import LedgerError
from registry_export.ledger import JobState, Ledger, OutboxReader, Vouchers
from registry_export.outbox import create_outbox, database_now_ms, outbox
from registry_export.registry import VersionInfo
from tests.support.recipes import SERVER_ROLE, WORKER_ROLE, Rights


@pytest.fixture
def rights(postgres_uri):
    with Rights(postgres_uri()) as rights:
        rights.prepare()
        rights.run(rights.server, "CREATE TABLE model_versions (name TEXT)")
        yield rights


@pytest.fixture
def ledger(rights):
    ledger = Ledger(rights.worker)
    yield ledger
    ledger.dispose()


@pytest.fixture
def reader(rights):
    reader = OutboxReader(rights.worker)
    yield reader
    reader.dispose()


def promote(uri):
    """Leave a row in the outbox, as the hook does as the server's role."""
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        create_outbox(connection)
        values = {"event": "e", "model_name": "digits", "version": "1", "trigger": "stage:Staging"}
        connection.execute(outbox.insert().values(**values, created_at_ms=database_now_ms()))
    engine.dispose()


def test_the_role_keeps_the_ledger_and_moves_promotions_there(rights, ledger, reader):
    ledger.migrate()
    promote(rights.server)
    assert ledger.drain_outbox(reader) == 1
    assert reader.is_empty()
    job = ledger.claim("worker")
    assert job.model_version == ModelVersionRef("digits", "1")
    ledger.complete(job, Status.VERIFIED)
    assert ledger.get(job.id).state is JobState.DONE


def test_the_role_owns_its_tables_alone_and_sees_nothing_of_mlflows(rights, ledger):
    ledger.migrate()
    engine = sqlalchemy.create_engine(rights.admin)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
        owners = dict(rows.all())
    engine.dispose()
    assert owners.pop("registry_export_outbox") == owners.pop("model_versions") == SERVER_ROLE
    assert set(owners.values()) == {WORKER_ROLE}
    assert all(name.startswith("registry_export_") for name in owners)
    with pytest.raises(LedgerError, match="permission denied for table model_versions"), ledger.database.read() as own:
        own.exec_driver_sql("SELECT * FROM model_versions")


@pytest.fixture
def vouchers(rights):
    vouchers = Vouchers(rights.worker, lambda ref: VersionInfo(ref, "", created_ms=1, files_id="f"))
    yield vouchers
    vouchers.dispose()


def test_what_opens_gates_is_the_workers_to_write_and_the_servers_to_read_alone(rights, vouchers):
    assert vouchers.prepare() == ""
    assert vouchers.prepare() == ""
    vouchers.settle(ModelVersionRef("digits", "1"), {"onnx": "a" * 64})
    rights.run(rights.server, "SELECT * FROM registry_export_vouchers")
    for statement in ("DELETE FROM registry_export_vouchers", "UPDATE registry_export_vouchers SET name = 'tflite'"):
        with pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"):
            rights.run(rights.server, statement)


def test_a_role_that_may_not_create_says_what_gates_lack_and_goes_on(rights, vouchers):
    rights.run(rights.admin, "REVOKE CREATE ON SCHEMA public FROM registry_export")
    assert "docs/operations.md" in vouchers.prepare()
    vouchers.settle(ModelVersionRef("digits", "1"), {"onnx": "a" * 64})
    vouchers.withdraw(ModelVersionRef("digits", "1"), ["onnx"])


@pytest.mark.parametrize(
    ("revoked", "work"),
    [
        ("REVOKE CREATE ON SCHEMA public FROM registry_export", lambda ledger, reader: ledger.migrate()),
        ("REVOKE SELECT ON registry_export_outbox FROM registry_export", lambda ledger, reader: reader.read(1)),
        ("REVOKE DELETE ON registry_export_outbox FROM registry_export", lambda ledger, reader: reader.delete(())),
    ],
    ids=["CREATE", "SELECT", "DELETE"],
)
def test_each_right_is_needed_and_its_lack_is_one_sentence_that_says_where_to_look(
    rights, ledger, reader, revoked, work
):
    rights.run(rights.admin, revoked)
    with pytest.raises(LedgerError, match=r"permission denied .*docs/operations.md") as caught:
        work(ledger, reader)
    assert not caught.value.transient, "nobody would hear of it"
    assert "\n" not in str(caught.value)
    assert "of-the-worker" not in str(caught.value)


def test_the_right_to_create_is_needed_no_more_once_the_tables_are_there(rights, ledger):
    ledger.migrate()
    rights.run(rights.admin, "REVOKE CREATE ON SCHEMA public FROM registry_export")
    ledger.migrate()
    ledger.complete(ledger.begin(ModelVersionRef("digits", "1"), "manual", "worker"), Status.VERIFIED)


def test_the_outbox_of_the_recipe_is_the_one_that_the_hook_would_make(rights, postgres_uri):
    uri = postgres_uri()
    engine = sqlalchemy.create_engine(uri)
    create_outbox(engine)
    engine.dispose()

    def shape(place):
        engine = sqlalchemy.create_engine(place)
        found = sqlalchemy.inspect(engine)
        columns = [
            (column["name"], str(column["type"]), column["nullable"], bool(column["default"]))
            for column in found.get_columns(outbox.name)
        ]
        unique = [constraint["column_names"] for constraint in found.get_unique_constraints(outbox.name)]
        key = found.get_pk_constraint(outbox.name)["constrained_columns"]
        engine.dispose()
        return columns, unique, key

    assert shape(rights.admin) == shape(uri)
