"""What a worker costs that has nothing to do, beside a real server with promoted versions."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
from mlflow import MlflowClient

from tests.benchmarks.figures import Figure, record_all
from tests.support.outbox import empty_outbox_of
from tests.support.server import MlflowServer

CPU_AT_MOST, MEMORY_AT_MOST = 1.0, 250.0
_MODELS = 30
_SETTLE_S = 45.0
_WATCHED_S = float(os.environ.get("IDLE_S", "180"))
_RULES = """
rules:
  - models: "*"
    promotions: {stages: [Staging]}
    targets: [onnx]
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")


def promoted_and_exported(server, folder):
    """Versions in a stage that a rule wants, of which everything is exported."""
    client = MlflowClient(server.uri)
    (folder / "manifest.json").write_text("{}")
    for number in range(_MODELS):
        name = f"model-{number}"
        client.create_registered_model(name)
        run = client.create_run("0")
        client.log_artifact(run.info.run_id, str(folder / "manifest.json"), "model/exports/onnx")
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        client.transition_model_version_stage(name, "1", "Staging")
        client.set_model_version_tag(name, "1", "registry_export.onnx", "verified")
        client.set_model_version_tag(name, "1", "registry_export.status", "verified")
    empty_outbox_of(server.database_uri)


def held_by(process):
    """Processor seconds of a process and all that it has started, and the memory that only they hold, in MB."""
    family = [process, *process.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    spent = sum(t.user + t.system + t.children_user + t.children_system for t in times)
    return spent, sum(member.memory_info().rss for member in family) / 1e6


def test_an_idle_worker_is_hardly_felt(tmp_path):
    (tmp_path / "registry-export.yaml").write_text(_RULES)
    with MlflowServer(tmp_path / "server") as server:
        promoted_and_exported(server, tmp_path)
        environ = {
            **os.environ,
            "MLFLOW_TRACKING_URI": server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
            "REGISTRY_EXPORT_LEDGER_URI": f"sqlite:///{tmp_path / 'ledger.db'}",
        }
        command = [sys.executable, "-m", "registry_export.cli", "worker"]
        with (
            (tmp_path / "worker.log").open("wb") as log,
            subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log) as worker,
        ):
            process = psutil.Process(worker.pid)
            try:
                time.sleep(_SETTLE_S)  # the start, and the first sweep
                before, _ = held_by(process)
                time.sleep(_WATCHED_S)
                after, memory = held_by(process)
            finally:
                worker.terminate()
                worker.wait(30)
    said = (tmp_path / "worker.log").read_text()
    assert "queued" not in said, said
    record_all(
        (
            Figure(
                name="idle-cpu",
                what="processor time of an idle worker, of one core",
                measured=100 * (after - before) / _WATCHED_S,
                limit=CPU_AT_MOST,
                unit="%",
                scale=f"{after - before:.2f} s in {_WATCHED_S:.0f} s",
                how=f"`registry-export worker` beside a server with {_MODELS} promoted, exported models",
            ),
            Figure(
                name="idle-memory",
                what="memory of an idle worker, no parents running",
                measured=memory,
                limit=MEMORY_AT_MOST,
                unit="MB",
                how="resident set of the process and its children, shared pages and all",
            ),
        )
    )
