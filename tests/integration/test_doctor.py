"""`registry-export doctor` against what is really there, and what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_export.api import page_of
from registry_export.cli import cli
from registry_export.doctor import examine
from registry_export.entities import ModelVersionRef
from registry_export.settings import Settings
from tests.support.server import free_port
from tests.support.signing_keys import key_pair

RULES = """
rules:
  - models: "*"
    targets: [torchscript]
    samples: {path: samples.npz}
"""


@pytest.fixture(autouse=True)
def _place(mlflow_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("REGISTRY_EXPORT_OUTBOX_URI", mlflow_server.database_uri)
    (tmp_path / "registry-export.yaml").write_text(RULES)
    (tmp_path / "samples.npz").touch()


def findings(code):
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == code, result.output
    return {(found["what"], found["state"]): found["said"] + found["remedy"] for found in json.loads(result.stdout)}


def test_where_all_is_well_it_says_so_and_leaves_no_run_behind(mlflow_server):
    import mlflow

    found = findings(0)
    assert {what for what, _ in found} >= {"MLflow", "artifact store", "outbox", "ledger", "rules", "disk", "sandbox"}
    assert ("toolchain torch", "ok") in found
    client = mlflow.MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name("registry-export")
    assert not [run for run in client.search_runs([experiment.experiment_id]) if "doctor" in run.info.run_name]


def test_the_password_of_a_servers_address_is_not_shown(mlflow_server):
    with_password = mlflow_server.uri.replace("://", "://worker:Xq7-password@")
    settings = replace(Settings.from_environment(), tracking_uri=with_password)
    first = next(examine(settings))
    assert (first.what, first.state) == ("MLflow", "ok"), first
    assert "Xq7-password" not in first.said
    page = page_of(with_password, ModelVersionRef("a b", "1"))
    assert page == f"{mlflow_server.uri}/#/models/a%20b/versions/1"


@pytest.mark.parametrize(
    ("variable", "value", "what", "word"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:{port}", "MLflow", "127.0.0.1"),
        ("MLFLOW_TRACKING_URI", "", "MLflow", "is not set"),
        pytest.param(
            *("REGISTRY_EXPORT_LEDGER_URI", "sqlite:////proc/nowhere/ledger.db", "ledger", "nowhere"),
            marks=pytest.mark.slow,
        ),
        ("REGISTRY_EXPORT_OUTBOX_URI", "sqlite:////proc/nowhere/mlflow.db", "outbox", "nowhere"),
    ],
)
def test_what_does_not_answer_is_named_and_the_rest_is_examined(monkeypatch, variable, value, what, word):
    monkeypatch.setenv(variable, value.format(port=free_port()))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = findings(1)
    assert word in found[what, "wrong"]
    assert ("toolchain torch", "ok") in found


@pytest.mark.slow
def test_what_the_rules_want_and_is_not_there_is_wrong(tmp_path):
    (tmp_path / "samples.npz").unlink()
    assert "samples.npz" in findings(1)["rules", "wrong"]
    (tmp_path / "registry-export.yaml").write_text("rules: nothing")
    assert "registry-export.yaml" in findings(1)["rules", "wrong"]


@pytest.mark.slow
def test_gates_that_would_hear_nothing_are_wrong(tmp_path, monkeypatch):
    rules = RULES + "    require: {stages: [Production], targets: [torchscript]}\n"
    (tmp_path / "samples.npz").touch()
    (tmp_path / "registry-export.yaml").write_text(rules)
    assert "heard by the gates of the rules for '*'" in findings(0)["gates", "ok"]
    monkeypatch.delenv("REGISTRY_EXPORT_OUTBOX_URI")
    assert "REGISTRY_EXPORT_OUTBOX_URI is not set" in findings(1)["gates", "wrong"]


def test_a_signing_key_is_read_and_who_else_may_read_it_is_said(monkeypatch, tmp_path):
    private, public = key_pair(tmp_path)
    monkeypatch.setattr("registry_export.doctor._toolchains_of", lambda wanted: ())
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY", str(private))
    assert ("signing key", "note") not in (found := findings(0))
    assert str(private) in found["signing key", "ok"]
    private.chmod(0o644)
    assert f"chmod 600 {private}" in findings(0)["signing key", "note"]
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY", str(public))
    assert "no private key" in findings(1)["signing key", "wrong"]
