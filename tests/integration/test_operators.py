"""What an operator sees of a real worker: its log, its metrics, its health."""

from __future__ import annotations

import base64
import json
import os
import signal
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families

from tests.support.authors import authors
from tests.support.postgres import PostgresServer
from tests.support.registered import TORCH
from tests.support.server import MlflowServer
from tests.support.worker import WorkerProcess, until

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

PASSWORDS = ("Xq7-registry-pass", "Xq7-ledger-pass", "Xq7-environment-pass")
RULES = """
rules:
  - models: "*"
    promotions: {stages: [Staging]}
    targets: [TARGETS]
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
    write_rules(tmp_path, "torchscript")
    return tmp_path


def write_rules(folder, targets):
    """The version keeps what it has of an earlier test; what no test has asked for before is made in this one."""
    (folder / "registry-export.yaml").write_text(RULES.replace("TARGETS", targets))


@pytest.fixture
def database():
    """A PostgreSQL server that a test may stop; outside of pytest's folders, which its user may not enter."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, PostgresServer(Path(folder) / "data") as server:
        yield server


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
    assert {event["status"] for event in events if "step" in event and event["job"] == 1} == {"done", "verified"}
    assert (failed["job"], failed["status"]) == (2, "failed")
    assert any(event["message"].startswith("SIGTERM") for event in events)
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


# Metrics and health.


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Samples(dict):
    """What `/metrics` shows: each sample by its name and labels as they are written; those that are not there are 0."""

    def __init__(self, url):
        families = text_string_to_metric_families(get(f"{url}/metrics")[1])
        for sample in (sample for family in families for sample in family.samples):
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            self[f"{sample.name.removeprefix('registry_export_')}{{{labels}}}".removesuffix("{}")] = sample.value

    def __missing__(self, _name):
        return 0.0


@contextmanager
def watched_worker(server, folder, ledger_uri, **environ):
    places = {
        "MLFLOW_TRACKING_URI": server.uri,
        "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
        "REGISTRY_EXPORT_LEDGER_URI": ledger_uri,
        "REGISTRY_EXPORT_LISTEN": "127.0.0.1:0",
    }
    with WorkerProcess(folder, {**places, **environ}, ("--grace", "100")) as worker:
        said = worker.wait_for(lambda event: event["message"].startswith("Metrics and health are at"))["message"]
        yield worker, said.split()[5]


@pytest.mark.slow
def test_a_promotion_is_seen_in_the_metrics_while_and_after_it_is_exported(server, client, net, folder):
    write_rules(folder, "torchscript, torchscript: {freeze: true}")
    with watched_worker(server, folder, f"sqlite:///{folder / 'ledger.db'}") as (_, url):
        before = Samples(url)
        assert [before[f"jobs{{state={state}}}"] for state in ("queued", "running", "done", "dead")] == [0, 0, 0, 0]
        assert before["oldest_waiting_job_age_seconds"] == before["busy"] == before["warm_parents"] == 0
        assert any(name.startswith("build_info{") for name in before)
        assert before["process_resident_memory_bytes"] > 0
        client.transition_model_version_stage(net, "1", "Archived")
        client.transition_model_version_stage(net, "1", "Staging")
        until(lambda: Samples(url)["warm_parents"])
        during = Samples(url)
        assert (during["busy"], during["attempts_total{outcome=done}"]) == (1, 0)
        assert get(f"{url}/healthz")[0] == 200
        after = until(lambda: (seen := Samples(url))["attempts_total{outcome=done}"] and seen)
        until(lambda: Samples(url)["jobs{state=done}"])
        again = until(lambda: not (seen := Samples(url))["busy"] and seen)
    assert after["promotions_total{trigger=stage}"] == after["exports_total{status=verified}"] == 1
    assert after["targets_total{format=torchscript,status=verified}"] == 2
    made = after["step_duration_seconds_count{format=torchscript,step=verify}"]
    assert made >= 1
    assert made + after["cache_hits_total{format=torchscript}"] == 2
    assert after["step_duration_seconds_count{format=,step=publish}"] == 1
    # What other tests have promoted on this server is found by the reconciler, as a job more.
    assert after["queue_delay_seconds_count"] >= 1
    assert 0 < after["queue_delay_seconds_sum"] < 30
    assert after["warm_parent_resident_bytes{toolchain=torch}"] > 50e6
    assert after["children_killed_total{limit=time}"] == 0
    for part in ("ledger", "outbox", "registry"):
        assert again[f"last_success_timestamp_seconds{{part={part}}}"] > 1.7e9
    assert not [name for name in again if net in name]


@pytest.mark.slow
def test_readiness_follows_the_ledger_and_the_registry_and_liveness_does_not(server, folder, database):
    with watched_worker(server, folder, database.create_database()) as (worker, url):

        def problems():
            status, body = get(f"{url}/readyz")
            said = json.loads(body)
            assert (status == 200) == (said.pop("status") == "ok") == (not said)
            assert get(f"{url}/healthz") == (200, '{"status":"ok"}\n')
            return set(said)

        assert problems() == set()
        assert "jobs{state=done}" in Samples(url)
        database.stop()
        assert until(problems) == {"ledger"}
        until(lambda: "jobs{state=done}" not in Samples(url))
        database.start()
        until(lambda: not problems())
        server.stop()
        until(lambda: problems() == {"registry"})
        server.start()
        until(lambda: not problems())
        assert worker.process.poll() is None


@pytest.mark.slow
def test_a_worker_that_ends_its_last_export_is_live_and_no_longer_ready(server, client, net, folder):
    write_rules(folder, "torchscript: {method: script}")
    with watched_worker(server, folder, f"sqlite:///{folder / 'ledger.db'}") as (worker, url):
        client.transition_model_version_stage(net, "1", "Archived")
        client.transition_model_version_stage(net, "1", "Staging")
        until(lambda: Samples(url)["busy"])
        os.kill(worker.process.pid, signal.SIGTERM)
        _, body = until(lambda: (answer := get(f"{url}/readyz"))[0] == 503 and answer)
        assert json.loads(body)["worker"] == "It is stopping."
        assert get(f"{url}/healthz")[0] == 200
        assert worker.process.wait(60) == 0
