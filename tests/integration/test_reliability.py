"""Real workers that are killed and stopped at bad moments, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from registry_export.ledger import JobState, Ledger
from tests.support.killable import KillableWorker
from tests.support.outbox import empty_outbox_of
from tests.support.planted_versions import planted_versions
from tests.support.server import MlflowServer
from tests.support.worker import until

RULES = """
rules:
  - models: "{name}"
    promotions: {{aliases: [champion]}}
    targets: [{targets}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MlflowServer(tmp_path_factory.mktemp("reliability-server")) as server:
        yield server


@pytest.fixture(scope="module")
def versions(server, tmp_path_factory):
    with planted_versions(server.uri, tmp_path_factory.mktemp("reliability-site")) as versions:
        yield versions


class Site:
    """One promotion's surroundings: rules, a ledger, and a folder for the temporary files of its workers."""

    def __init__(self, versions, server, folder, scratch):
        self.versions, self.folder, self.scratch = versions, folder, scratch
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.migrate()
        self.environment = {
            "MLFLOW_TRACKING_URI": server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
            "REGISTRY_EXPORT_LEDGER_URI": f"sqlite:///{folder / 'ledger.db'}",
            "REGISTRY_EXPORT_CONFIG": str(folder / "rules.yaml"),
            "REGISTRY_EXPORT_LATENCY": "off",
            "TMPDIR": str(scratch),
        }

    def promote(self, name, targets="planted"):
        self.wants(name, targets)
        ref = self.versions.register(name)
        self.versions.client.set_registered_model_alias(name, "champion", ref.version)
        return ref

    def wants(self, name, targets):
        (self.folder / "rules.yaml").write_text(RULES.format(name=name, targets=targets))

    def end_leases(self):
        """Let the minute pass for which a claim holds when its worker is silent."""
        with self.ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1 WHERE lease <> ''")

    def worker(self, *arguments, log="worker.log", parameters=None, **environment):
        return KillableWorker(self.environment | environment, self.folder / log, arguments, parameters)

    def job(self):
        (job,) = self.ledger.list()
        return job

    def is_converting(self, worker):
        """Whether a child of the worker is in the folder of a conversion."""
        for child in worker.children():
            try:
                if "steps" in child.cwd():
                    return True
            except Exception:  # noqa: BLE001 - it ended
                continue
        return False


@pytest.fixture
def site(versions, server, tmp_path):
    with tempfile.TemporaryDirectory(prefix="scratch-") as scratch:  # short: sockets lie in there
        site = Site(versions, server, tmp_path, Path(scratch))
        yield site
        site.ledger.dispose()
    empty_outbox_of(server.database_uri)


def test_the_next_worker_leaves_nothing_of_one_that_was_killed_in_mid_export(site):
    site.promote("swept", "planted: {fault: hang}")
    with site.worker() as first:
        until(lambda: site.is_converting(first), lambda: first.log)
        family = first.kill()
    assert len(list(site.scratch.iterdir())) >= 2, "the pool's folder and the export's"
    with site.worker("--once") as second:
        assert second.process.wait(60) == 0, second.log
    assert [path.name for path in site.scratch.iterdir()] == []
    assert not any(process.is_running() for process in family)
    assert site.job().state is JobState.RUNNING, "it waits for the end of its lease"


def test_a_worker_leaves_the_folders_of_another_that_works_beside_it(site):
    site.promote("beside", "planted: {fault: hang}")
    with site.worker() as first:
        until(lambda: site.is_converting(first), lambda: first.log)
        before = {path.name for path in site.scratch.iterdir()}
        with site.worker("--once", log="other.log") as second:
            assert second.process.wait(60) == 0, second.log
        assert {path.name for path in site.scratch.iterdir()} == before
        assert site.is_converting(first)


def test_an_export_that_kills_its_worker_three_times_is_dead_until_a_person_retries_it(site):
    ref = site.promote("killer", "planted: {fault: hang}")
    for killed in range(3):
        with site.worker() as worker:
            until(lambda: site.is_converting(worker), lambda: worker.log)
            assert (site.job().state, site.job().vanished) == (JobState.RUNNING, killed)
            worker.kill()
        site.end_leases()
    with site.worker("--once") as fourth:
        assert fourth.process.wait(60) == 0, fourth.log
    dead = site.job()
    assert (dead.state, dead.vanished, dead.attempt) == (JobState.DEAD, 3, 3), fourth.log
    tags = site.versions.client.get_model_version(ref.name, ref.version).tags
    assert tags["registry_export.status"] == "failed"
    assert "ended without a word 3 times" in tags["registry_export.error"]
    assert f"`registry-export jobs retry {dead.id}`" in tags["registry_export.error"]
    site.wants("killer", "planted")
    subprocess.run(
        [sys.executable, "-m", "registry_export.cli", "jobs", "retry", str(dead.id)],
        env=os.environ | site.environment,
        check=True,
    )
    with site.worker("--once") as fifth:
        assert fifth.process.wait(60) == 0, fifth.log
    assert (site.job().state, site.job().status, site.job().vanished) == (JobState.DONE, "verified", 0), fifth.log
