"""The hook in a real `mlflow server`, on SQLite and on PostgreSQL: what queues an export, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import urllib.request
import uuid

import pytest
import sqlalchemy
from mlflow import MlflowClient
from sqlalchemy.orm import Session

from registry_export.outbox import outbox
from tests.support.server import MlflowServer

BACKENDS = ["sqlite", "postgresql"]
# MLflow says on every transition that stages are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")


@pytest.fixture(scope="module")
def postgres_mlflow_server(tmp_path_factory, postgres_uri):
    with MlflowServer(tmp_path_factory.mktemp("mlflow-postgres"), database_uri=postgres_uri()) as server:
        yield server


@pytest.fixture(params=BACKENDS)
def server(request):
    return request.getfixturevalue("mlflow_server" if request.param == "sqlite" else "postgres_mlflow_server")


@pytest.fixture
def client(server):
    return MlflowClient(server.uri)


@pytest.fixture
def model(client):
    name = f"hook-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    return name


def version_of(client, model):
    run = client.create_run("0")
    return client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id).version


def rows_of(database_uri, model):
    engine = sqlalchemy.create_engine(database_uri)
    try:
        if not sqlalchemy.inspect(engine).has_table(outbox.name):
            return []
        with engine.connect() as connection:
            query = sqlalchemy.select(outbox).where(outbox.c.model_name == model).order_by(outbox.c.id)
            return connection.execute(query).all()
    finally:
        engine.dispose()


def triggers_of(server, model):
    return [(row.version, row.trigger) for row in rows_of(server.database_uri, model)]


def status_of(client, model, version):
    return client.get_model_version(model, version).tags.get("registry_export.status")


def test_a_stage_transition_leaves_a_row_and_the_queued_tag(server, client, model):
    version = version_of(client, model)
    answer = client.transition_model_version_stage(model, version, "Staging")
    assert triggers_of(server, model) == [("1", "stage:Staging")]
    assert status_of(client, model, version) == "queued"
    assert answer.tags["registry_export.status"] == "queued", "the answer to the promotion shows it already"
    assert answer.tags["registry_export.trigger"] == "stage:Staging"
    assert client.get_model_version(model, version).tags == answer.tags


def test_the_trigger_is_that_of_the_latest_promotion_at_once(server, client, model):
    version = version_of(client, model)
    client.set_model_version_tag(model, version, "registry_export.trigger", "manual")
    client.transition_model_version_stage(model, version, "Staging")
    client.set_registered_model_alias(model, "champion", version)
    assert client.get_model_version(model, version).tags["registry_export.trigger"] == "alias:champion"


def test_the_row_carries_the_clock_of_the_database_and_the_earlier_status(server, client, model):
    version = version_of(client, model)
    client.set_model_version_tag(model, version, "registry_export.status", "verified")
    client.transition_model_version_stage(model, version, "Staging")
    (row,) = rows_of(server.database_uri, model)
    engine = sqlalchemy.create_engine(server.database_uri)
    with engine.connect() as connection:
        from registry_export.outbox import database_now_ms

        now = connection.execute(sqlalchemy.select(database_now_ms())).scalar_one()
    engine.dispose()
    assert 0 <= now - row.created_at_ms < 60_000
    assert row.previous_status == "verified"
    assert len(row.event) == 32


def test_the_row_carries_what_the_promotion_replaced(server, client, model):
    first, second = version_of(client, model), version_of(client, model)
    client.transition_model_version_stage(model, first, "Staging")
    client.transition_model_version_stage(model, first, "Production")
    client.transition_model_version_stage(model, first, "Production")
    client.set_registered_model_alias(model, "champion", first)
    client.set_registered_model_alias(model, "champion", second)
    client.delete_registered_model_alias(model, "champion")
    client.set_registered_model_alias(model, "champion", first)
    copy = client.copy_model_version(f"models:/{model}/{first}", f"{model}-production")
    rows = [*rows_of(server.database_uri, model), *rows_of(server.database_uri, copy.name)]
    assert [row.previous for row in rows] == ["None", "Staging", "Production", "", "1", "", None]


def test_archiving_the_others_queues_the_promoted_version_alone(server, client, model):
    first, second = version_of(client, model), version_of(client, model)
    client.transition_model_version_stage(model, first, "Production")
    client.transition_model_version_stage(model, second, "Production", archive_existing_versions=True)
    assert client.get_model_version(model, first).current_stage == "Archived"
    assert triggers_of(server, model) == [("1", "stage:Production"), ("2", "stage:Production")]


def test_the_same_stage_asked_again_queues_again(server, client, model):
    version = version_of(client, model)
    client.transition_model_version_stage(model, version, "Staging")
    client.transition_model_version_stage(model, version, "Staging")
    assert triggers_of(server, model) == [("1", "stage:Staging")] * 2


@pytest.mark.parametrize("stage", ["None", "Archived"])
def test_a_demotion_queues_nothing(server, client, model, stage):
    version = version_of(client, model)
    client.transition_model_version_stage(model, version, stage)
    assert triggers_of(server, model) == []
    assert status_of(client, model, version) is None


def test_edits_that_are_no_promotion_queue_nothing(server, client, model):
    version = version_of(client, model)
    client.transition_model_version_stage(model, version, "Staging")
    client.set_registered_model_alias(model, "champion", version)
    before = len(rows_of(server.database_uri, model))
    client.update_model_version(model, version, description="a description")
    client.set_model_version_tag(model, version, "owner", "me")
    client.delete_registered_model_alias(model, "champion")
    renamed = f"{model}-renamed"
    client.rename_registered_model(model, renamed)
    client.transition_model_version_stage(renamed, version, "Archived")
    client.delete_model_version(renamed, version)
    assert len(rows_of(server.database_uri, model)) == before
    assert rows_of(server.database_uri, renamed) == []


def test_an_alias_set_moved_and_set_again_queues_each_time(server, client, model):
    first, second = version_of(client, model), version_of(client, model)
    client.set_registered_model_alias(model, "champion", first)
    client.set_registered_model_alias(model, "champion", second)
    client.set_registered_model_alias(model, "champion", second)
    assert triggers_of(server, model) == [(v, "alias:champion") for v in ("1", "2", "2")]
    assert status_of(client, model, second) == "queued"


def test_an_alias_that_a_worker_sets_on_verified_versions_queues_nothing(server, client, model):
    client.set_registered_model_alias(model, "champion-verified", version_of(client, model))
    assert triggers_of(server, model) == []


def test_a_copy_into_another_registered_model_queues_the_copy(server, client, model):
    version = version_of(client, model)
    client.set_model_version_tag(model, version, "registry_export.status", "verified")
    client.set_model_version_tag(model, version, "registry_export.trigger", "alias:champion")
    client.set_model_version_tag(model, version, "owner", "me")
    copy = client.copy_model_version(f"models:/{model}/{version}", f"{model}-production")
    assert triggers_of(server, copy.name) == [(copy.version, f"copied:{model}/{version}")]
    tags = client.get_model_version(copy.name, copy.version).tags
    copied = f"copied:{model}/{version}"
    assert tags == {"registry_export.status": "queued", "registry_export.trigger": copied, "owner": "me"}
    assert rows_of(server.database_uri, copy.name)[0].previous_status == "verified"


def test_a_copy_without_our_tags_is_queued_too(server, client, model):
    copy = client.copy_model_version(f"models:/{model}/{version_of(client, model)}", f"{model}-production")
    assert status_of(client, copy.name, copy.version) == "queued"


def test_prompts_are_no_models(server, client):
    name = f"prompt-{uuid.uuid4().hex[:8]}"
    client.register_prompt(name, "Say {{word}}.")
    client.set_prompt_alias(name, "production", 1)
    assert triggers_of(server, name) == []


@pytest.mark.parametrize("prefix", ["api", "ajax-api"])
def test_both_rest_prefixes_queue(server, client, model, prefix):
    version = version_of(client, model)
    body = {"name": model, "version": version, "stage": "Staging", "archive_existing_versions": False}
    request = urllib.request.Request(
        f"{server.uri}/{prefix}/2.0/mlflow/model-versions/transition-stage",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert triggers_of(server, model) == [("1", "stage:Staging")]


def test_a_client_on_the_database_itself_queues(server, client, model):
    version = version_of(client, model)
    direct = MlflowClient(server.database_uri, server.database_uri)
    direct.transition_model_version_stage(model, version, "Staging")
    direct.set_registered_model_alias(model, "champion", version)
    assert triggers_of(server, model) == [("1", "stage:Staging"), ("1", "alias:champion")]


# What follows works on MLflow's store itself, because a server gives no way to make a transaction fail on purpose.


@pytest.fixture(params=BACKENDS)
def store(request, tmp_path, postgres_uri):
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    import registry_export.hook  # noqa: F401

    uri = f"sqlite:///{tmp_path / 'registry.db'}" if request.param == "sqlite" else postgres_uri()
    store = SqlAlchemyStore(uri)
    store.create_registered_model("digits")
    for _ in range(3):
        store.create_model_version("digits", source="mlflow-artifacts:/nowhere/model")
    yield store
    store.engine.dispose()


def promote_and_roll_back(store, version):
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    with Session(store.engine) as session:
        row = session.query(SqlModelVersion).filter_by(name="digits", version=version).one()
        row.current_stage = "Staging"
        session.flush()
        assert session.execute(sqlalchemy.select(outbox)).all(), "the hook has written its row by now"
        session.rollback()


def test_a_rolled_back_promotion_leaves_no_row(store):
    store.transition_model_version_stage("digits", 2, "Staging", False)
    promote_and_roll_back(store, 1)
    assert [row.version for row in rows_of(store.db_uri, "digits")] == ["2"]
    assert "registry_export.status" not in store.get_model_version("digits", 1).tags


def test_a_rolled_back_first_promotion_does_not_lose_the_next(store):
    promote_and_roll_back(store, 1)  # takes the table that it created with it
    store.transition_model_version_stage("digits", 1, "Staging", False)
    assert [row.version for row in rows_of(store.db_uri, "digits")] == ["1"]


def test_an_alias_set_again_in_a_rolled_back_transaction_leaves_no_row(store):
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias

    store.set_registered_model_alias("digits", "champion", 1)
    with Session(store.engine) as session:
        session.query(SqlRegisteredModelAlias).one().version = 1
        session.flush()
        assert len(session.execute(sqlalchemy.select(outbox)).all()) == 2, "asked again, it is queued again"
        session.rollback()
    assert len(rows_of(store.db_uri, "digits")) == 1


def test_a_model_whose_prompt_tag_does_not_say_true_is_exported(store):
    from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag

    store.set_registered_model_tag("digits", RegisteredModelTag("mlflow.prompt.is_prompt", "false"))
    for version, value in ((1, "false"), (2, "True")):
        store.set_model_version_tag("digits", version, ModelVersionTag("mlflow.prompt.is_prompt", value))
        store.set_registered_model_alias("digits", "champion", version)
    tags = [ModelVersionTag(name, "no") for name in ("mlflow.prompt.is_prompt", "registry_export.status")]
    store.create_model_version("digits", source="models:/digits/3", tags=tags)
    queued = [(row.version, row.trigger) for row in rows_of(store.db_uri, "digits")]
    assert queued == [("1", "alias:champion"), ("4", "copied:digits/3")], "MLflow itself heeds no case"


def test_a_failing_hook_leaves_the_promotion_standing_and_says_so(store, caplog):
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {outbox.name} (something_else INTEGER)")
    store.transition_model_version_stage("digits", 1, "Staging", False)
    store.set_registered_model_alias("digits", "champion", 2)
    assert store.get_model_version("digits", 1).current_stage == "Staging"
    assert store.get_model_version_by_alias("digits", "champion").version == 2
    assert "registry_export.status" not in store.get_model_version("digits", 1).tags, "neither the row nor the tag"
    assert "could not queue the promotion of digits" in caplog.text


def test_a_hook_that_fails_before_it_asks_the_database_leaves_the_promotion_standing(store, monkeypatch, caplog):
    def fail():
        raise ImportError("another MLflow")

    monkeypatch.setattr("registry_export.queueing._for_postgresql", fail)
    monkeypatch.setattr("registry_export.queueing._for_sqlite", fail)
    store.transition_model_version_stage("digits", 1, "Staging", False)
    assert store.get_model_version("digits", 1).current_stage == "Staging"
    assert "could not queue the promotion of digits" in caplog.text


def test_an_outbox_that_was_dropped_while_the_server_runs_comes_back(store):
    store.transition_model_version_stage("digits", 1, "Staging", False)
    store.transition_model_version_stage("digits", 1, "Staging", False)
    with store.engine.begin() as connection:
        outbox.drop(connection)
    for version in (2, 3):
        store.transition_model_version_stage("digits", version, "Staging", False)
    assert "3" in [row.version for row in rows_of(store.db_uri, "digits")]


def test_first_promotions_at_the_same_time_are_all_queued(store):
    barrier = threading.Barrier(3)

    def promote(version):
        barrier.wait()
        store.transition_model_version_stage("digits", version, "Staging", False)

    threads = [threading.Thread(target=promote, args=(version,)) for version in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.version for row in rows_of(store.db_uri, "digits")) == ["1", "2", "3"]


def run_python(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)


def test_an_error_while_attaching_does_not_stop_the_server():
    ended = run_python(
        """
        import sqlalchemy.event
        contains = sqlalchemy.event.contains
        def refuse(mapped, *arguments):
            if getattr(mapped, "__name__", "") == "SqlModelVersion":
                raise RuntimeError("planted")
            return contains(mapped, *arguments)
        sqlalchemy.event.contains = refuse
        import mlflow.server.handlers  # MLflow builds its store registries here
        print("started")
        """
    )
    assert ended.stdout.strip().endswith("started"), ended.stderr
    assert "registry-export's hook is off" in ended.stderr
    assert "planted" in ended.stderr


def test_an_mlflow_without_these_classes_does_not_stop_the_server():
    ended = run_python(
        """
        import sys, types
        sys.modules["mlflow.store.model_registry.dbmodels.models"] = types.ModuleType("renamed")
        import registry_export.hook
        print("started")
        """
    )
    assert ended.stdout.strip() == "started", ended.stderr
    assert "registry-export's hook is off" in ended.stderr


def test_the_entry_points_name_is_refused_as_a_store():
    from registry_export.hook import attach_to_mlflow

    with pytest.raises(ValueError, match="no registry store"):
        attach_to_mlflow("registry-export-hook://somewhere")
