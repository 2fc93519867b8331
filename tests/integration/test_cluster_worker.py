"""`registry-export worker --scheduler`: a promotion, exported by the machines of a cluster that speaks TLS alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from registry_export.isolation import ChildPool
from tests.support import planted
from tests.support.certificates import dask_tls
from tests.support.cluster import DaskCluster
from tests.support.planted_versions import PlantedVersions

RULES = """
rules:
  - models: "cluster-*"
    promotions: {aliases: [champion]}
    targets: [planted]
"""


@pytest.fixture
def worker(mlflow_server, tmp_path, monkeypatch):
    """Run `registry-export` with further arguments, `worker --once` where they name no command, and variables."""
    path = planted.install(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    (tmp_path / "registry-export.yaml").write_text(RULES)

    def run(*arguments, **environ):
        said = {
            "MLFLOW_TRACKING_URI": mlflow_server.uri,
            "REGISTRY_EXPORT_LEDGER_URI": f"sqlite:///{tmp_path / 'ledger.db'}",
            "REGISTRY_EXPORT_CONFIG": str(tmp_path / "registry-export.yaml"),
        }
        command = [] if arguments[0] in ("export", "verify", "doctor") else ["worker", "--once"]
        command = [sys.executable, "-m", "registry_export.cli", *command, *arguments]
        return subprocess.run(
            command, env={**os.environ, **said, **environ}, capture_output=True, text=True, timeout=180, cwd=tmp_path
        )

    return run


@pytest.mark.slow
def test_a_promotion_is_exported_over_tls_and_strangers_are_kept_out(worker, mlflow_server, tmp_path):
    ours, theirs = dask_tls(tmp_path / "ours"), dask_tls(tmp_path / "theirs")
    with ChildPool() as unused:
        versions = PlantedVersions(mlflow_server.uri, unused)
        ref = versions.register("cluster-tls")
    versions.client.set_registered_model_alias(ref.name, "champion", ref.version)
    with DaskCluster(tmp_path / "cluster", ours, "tls") as cluster:
        cluster.start_worker("only")
        blobs = {"REGISTRY_EXPORT_BLOBS": cluster.blobs, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
        stranger = worker("--scheduler", cluster.address, **blobs, **theirs)
        assert stranger.returncode == 1
        assert "does not answer" in stranger.stderr
        without = worker("--scheduler", cluster.address, **blobs)
        assert without.returncode == 2
        assert "distributed.comm.tls.ca-file" in without.stderr
        assert versions.tags(ref)["status"] == "queued", "a job was tried without a cluster"
        done = worker("--scheduler", cluster.address, **blobs, **ours)
        assert done.returncode == 0, done.stderr
        assert versions.tags(ref)["status"] == "verified", done.stderr
        assert "The Dask worker only takes 1 steps at a time" in done.stderr
        there = ("--scheduler", cluster.address)
        by_hand = worker("export", ref.uri, "--target", "planted", "--force", *there, **blobs, **ours)
        assert by_hand.returncode == 0, by_hand.stderr
        assert "This is job 2." in by_hand.stdout
        again = worker("verify", ref.uri, *there, **blobs, **ours)
        assert again.returncode == 0, again.stderr
        alone = worker("export", ref.uri, "--force", *there, **ours)
        assert (alone.returncode, "REGISTRY_EXPORT_BLOBS" in alone.stderr) == (2, True)
        assert not list((tmp_path / "cluster" / "blobs").glob("*/*")), "what an export has sent stays in the store"
