"""What an operator sees of a real worker: its log, its metrics, its health."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import pytest
import sqlalchemy
from mlflow import MlflowClient

from tests.support.authors import authors
from tests.support.registered import TORCH
from tests.support.server import MlflowServer
from tests.support.worker import WorkerProcess

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

PASSWORDS = ("Xq7-registry-pass", "Xq7-ledger-pass", "Xq7-environment-pass")
RULES = """
rules:
  - models: "*"
    promotions: {stages: [Staging]}
    targets: [torchscript]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MlflowServer(tmp_path_factory.mktemp("operators-server")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return MlflowClient(server.uri)


@pytest.fixture(scope="module")
def net(server, tmp_path_factory):
    """A registered model with one version, to be promoted."""
    arguments = {"uri": server.uri, "name": "net"}
    authors().call(TORCH, "tests.support.registered:pickled", arguments, tmp_path_factory.mktemp("net"))
    return "net"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "registry-export.yaml").write_text(RULES)
    return tmp_path


def with_password(uri, password):
    return uri.replace("://", f"://worker:{password}@", 1)


def test_every_line_of_a_worker_is_json_and_holds_no_credential(server, client, net, folder, postgres_uri):
    ledger = sqlalchemy.make_url(postgres_uri()).set(password=PASSWORDS[1]).render_as_string(hide_password=False)
    environ = {
        "MLFLOW_TRACKING_URI": with_password(server.uri, PASSWORDS[0]),
        "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
        "REGISTRY_EXPORT_LEDGER_URI": ledger,
        "SOME_API_KEY": PASSWORDS[2],
        "PYTHONWARNINGS": "default",
    }
    run = client.create_run("0")
    client.create_registered_model(f"empty-{PASSWORDS[2]}")
    client.create_model_version(f"empty-{PASSWORDS[2]}", f"{run.info.artifact_uri}/model", run.info.run_id)
    with WorkerProcess(folder, environ) as worker:
        client.transition_model_version_stage(net, "1", "Staging")
        ended = worker.wait_for(lambda event: event.get("status") == "verified" and "step" not in event)
        client.transition_model_version_stage(f"empty-{PASSWORDS[2]}", "1", "Staging")
        failed = worker.wait_for(lambda event: event["level"] == "ERROR")
    events = worker.events
    for event in events:
        assert list(event)[:4] == ["time", "level", "logger", "message"]
        assert datetime.fromisoformat(event["time"]).utcoffset() == timedelta()
    assert (ended["job"], ended["model_version"], ended["attempt"]) == (1, "net/1", 1)
    assert ended["trigger"] == "stage:Staging"
    assert ended["seconds"] > 0
    (converted,) = (event for event in events if event.get("step") == "convert")
    assert (converted["variant"], converted["status"], converted["job"]) == ("torchscript", "done", 1)
    assert converted["seconds"] > 0
    assert (failed["job"], failed["status"]) == (2, "failed")
    assert events[-1]["message"].startswith("SIGTERM")
    said = worker.log_path.read_text()
    secrets = [*PASSWORDS, base64.b64encode(f"worker:{PASSWORDS[0]}".encode()).decode()]
    assert [secret for secret in secrets if secret in said] == []
    assert "http://worker:***@" in said
    assert "empty-***" in said


def test_a_worker_that_cannot_go_on_says_why_in_json_too(folder):
    environ = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "REGISTRY_EXPORT_LEDGER_URI": "postgresql://u:Xq7@/x?host=/no",
    }
    with WorkerProcess(folder, environ) as worker:
        assert worker.process.wait(60) == 1
    assert worker.events[-1]["level"] == "CRITICAL"
    assert "did not answer" in worker.events[-1]["message"]
    assert "Xq7" not in worker.log_path.read_text()
