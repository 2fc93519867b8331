"""Where no plugin can be installed: a server without the hook, its webhooks, and what hosted registries do not have."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
import sqlalchemy
from cryptography.fernet import Fernet
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI

from registry_export.cli import main
from registry_export.entities import ModelVersionRef
from registry_export.errors import ConfigurationError
from registry_export.ledger import Ledger
from registry_export.registry import Registry
from registry_export.settings import Settings
from registry_export.worker import run_worker
from tests.support.hookless import hookless_server
from tests.support.proxy import INVALID, PASS, UNKNOWN, Proxy
from tests.support.server import free_port
from tests.support.versions import FILES, Versions
from tests.support.worker import WorkerProcess, until

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

SECRET = "a-secret-of-the-webhook"
EVENTS = ["model_version.created", "model_version_alias.created", "model_version_tag.set"]
KEPT_COPY = b'{"artifact_uri": "dbfs:/databricks/mlflow-registry/0a1b/models/model"}'
RULES = """
rules:
  - models: "{name}*"
    promotions: {{stages: [Staging], aliases: [champion], copied: true}}
    targets: [planted]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    environ = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    }
    with hookless_server(tmp_path_factory.mktemp("hookless-server"), environ) as server:
        yield server


@pytest.fixture
def settings(server, tmp_path):
    def settings(name, **rest):
        rules = tmp_path / "registry-export.yaml"
        rules.write_text(RULES.format(name=name))
        return Settings(rest.pop("uri", server.uri), None, f"sqlite:///{tmp_path / 'ledger.db'}", rules, **rest)

    return settings


def test_the_server_has_no_hook(server, versions):
    ref = versions.register("no-hook")
    versions.client.set_registered_model_alias(ref.name, "champion", ref.version)
    assert versions.tags(ref) == {}
    engine = sqlalchemy.create_engine(server.database_uri)
    assert "registry_export_outbox" not in sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


# Webhooks.


def test_an_alias_is_exported_at_once_when_a_webhook_tells_of_it(server, versions, settings, tmp_path):
    made = settings("told")
    port, ref = free_port(), versions.register("told")
    webhook = versions.client.create_webhook("told", f"http://127.0.0.1:{port}/webhook", EVENTS, secret=SECRET)
    environ = {
        "MLFLOW_TRACKING_URI": server.uri,
        "REGISTRY_EXPORT_LEDGER_URI": made.ledger_uri,
        "REGISTRY_EXPORT_WEBHOOK_SECRET": SECRET,
    }
    try:
        with WorkerProcess(tmp_path, environ, ["--listen", str(port)]) as worker:
            worker.wait_for(lambda event: event["message"].endswith("/webhook."))
            ledger = Ledger(made.ledger_uri)
            until(lambda: swept(ledger))
            no_more_sweeps(ledger)
            assert versions.client.test_webhook(webhook.webhook_id).success
            versions.client.set_registered_model_alias(ref.name, "champion", ref.version)
            ended = worker.wait_for(lambda event: event.get("status") == "verified" and "step" not in event)
            assert ended["trigger"] == "reconciled:alias:champion"
            assert versions.tags(ref)["planted"].startswith("verified")
            versions.client.set_model_version_tag(
                ref.name, ref.version, "registry_export.targets", "planted:fault=drifts"
            )
            worker.wait_for(lambda event: event.get("step") == "convert" and event["variant"] == "planted-drifts")
            versions.client.copy_model_version(f"models:/{ref.name}/{ref.version}", f"{ref.name}-again")
            copied = worker.wait_for(lambda event: event.get("trigger") == "reconciled:copied:told/1")
            assert copied["model_version"] == "told-again/1"
        assert SECRET not in worker.log_path.read_text()
        triggers = [job.trigger for job in ledger.list()]
        assert triggers == ["reconciled:copied:told/1", "reconciled:alias:champion", "reconciled:alias:champion"]
        ledger.dispose()
    finally:
        versions.client.delete_webhook(webhook.webhook_id)


def swept(ledger):
    """Whether the first sweep is over: it leaves how far it has come."""
    tables = sqlalchemy.inspect(ledger.database.engine).get_table_names()
    if "registry_export_cursors" not in tables:
        return False
    with ledger.database.read() as connection:
        return connection.exec_driver_sql(
            "SELECT count(*) FROM registry_export_cursors WHERE name LIKE 'versions%'"
        ).scalar()


def no_more_sweeps(ledger):
    """Let the next turn to sweep come in an hour: what is found until then was told."""
    with ledger.database.write() as connection:
        postponed = "UPDATE registry_export_cursors SET value_ms = value_ms + 3600000 WHERE name LIKE 'sweep|%'"
        assert connection.exec_driver_sql(postponed).rowcount == 1


# What hosted registries do not have.


def hosted(_method, path):
    """As Databricks documents its workspace registry: one condition in a search, no order by the time of update. And
    none of the calls that came with MLflow 3. It keeps copies of versions where nobody may write."""
    path = unquote_plus(path)
    if any(word in path for word in ("/logged-models", "/traces", "/webhooks", "/3.0/")):
        return UNKNOWN
    if "model-versions/get-download-uri" in path:
        return KEPT_COPY
    if "model-versions/search" in path and ("order_by=" in path or " IN " in path):
        return INVALID
    if "registered-models/search" in path and "tags." in path:
        return INVALID
    return PASS


@pytest.mark.slow
def test_a_registry_that_lacks_newer_calls_and_searches_is_exported_from(server, versions, settings, tmp_path, capsys):
    name = "main.ml_team.digits"
    other = versions.register("someone.elses.model")
    first, second = versions.register(name), versions.register(name, scale=3.0)
    with Proxy(server.port) as proxy, pytest.MonkeyPatch.context() as patch:
        proxy.treat = hosted
        made = settings(name, uri=proxy.uri)
        versions.client.transition_model_version_stage(name, first.version, "Staging")
        versions.client.set_registered_model_alias(name, "champion", second.version)
        run_worker(made, once=True)
        ledger = Ledger(made.ledger_uri)
        assert sorted(job.trigger for job in ledger.list()) == ["reconciled:alias:champion", "reconciled:stage:Staging"]
        run_worker(made, once=True)
        assert len(ledger.list()) == 2, "everything is found again and again"
        third = versions.register(name, scale=4.0)
        versions.client.set_registered_model_tag(name, "registry_export.targets", "planted,planted:fault=drifts")
        versions.client.transition_model_version_stage(name, third.version, "Staging")
        run_worker(made, once=True)
        ledger.dispose()
        for ref in (first, second, third):
            assert versions.tags(ref)["planted"].startswith("verified"), ref
        assert "planted-drifts" in versions.tags(third), "the model's tag was not found"
        assert versions.tags(other) == {}
        assert {treatment for _, _, treatment in proxy.seen} >= {INVALID, KEPT_COPY}, "nothing was refused"
        unknown = {path for _, path, treatment in proxy.seen if treatment == UNKNOWN}
        # MLflow's client asks that by itself, and does without an answer.
        assert unknown <= {"/api/3.0/mlflow/server-info"}, "it asks for a call that may be absent"
        patch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        assert run("pull", f"models:/{name}@champion", "--target", "planted", "--output", str(tmp_path / "out")) == 0
        assert Path(capsys.readouterr().out.strip()).exists()


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_a_logged_model_on_a_server_without_them_is_one_sentence(server, tmp_path, monkeypatch, capsys):
    ref = Versions(server.uri, tmp_path).logged_model("hosted-logged-model")
    with Proxy(server.port) as proxy:
        proxy.treat = hosted
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        capsys.readouterr()
        assert run("plan", ref.uri) == 1
        error = capsys.readouterr().err
    assert f"{proxy.uri} has no such call" in error
    assert error.count("\n") == 1


@pytest.fixture
def databricks(server, monkeypatch):
    """The real server, reached as a Databricks workspace is; MLflow's client takes it for one."""
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_HOST", server.uri)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-token")
    monkeypatch.setenv(MLFLOW_TRACKING_URI.name, "databricks")
    monkeypatch.setenv(MLFLOW_REGISTRY_URI.name, "databricks")


def test_the_scheme_databricks_is_mlflows_own(databricks, versions, tmp_path):
    client = MlflowClient("databricks", "databricks")
    experiment = client.create_experiment("by-databricks", artifact_location=f"file://{tmp_path / 'artifacts'}")
    assert experiment
    ref = Versions("databricks", tmp_path).of_run("by-databricks", source="{root}/{path}")
    versions.client.transition_model_version_stage(ref.name, ref.version, "Staging")
    registry = Registry("databricks", "databricks")
    assert registry.resolve("models:/by-databricks/Staging") == ref
    assert ref in {info.ref for info in registry.versions_changed_since(0)}
    registry.set_tags(ref, {"registry_export.status": "queued"})
    assert versions.tags(ref) == {"status": "queued"}
    registry.download(ref, tmp_path / "here")
    assert all((tmp_path / "here" / path).is_file() for path in FILES)


@pytest.mark.parametrize(
    "uris",
    [("databricks", None), ("databricks://prod", None), ("http://box", "databricks-uc"), (None, "uc:http://box")],
)
def test_unity_catalog_is_refused_before_anything_is_converted(uris):
    with pytest.raises(ConfigurationError, match="MLFLOW_REGISTRY_URI=databricks"):
        Registry(*uris)


def test_a_registry_on_another_server_is_asked_there(server, versions, monkeypatch):
    ref = versions.register("split")
    elsewhere = Registry("http://127.0.0.1:9", server.uri)
    assert elsewhere.glance(ref).ref == ModelVersionRef("split", "1")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", server.uri)
    assert Settings.from_environment().registry_uri == server.uri
