"""The worker and the reconciler against a real server; the export itself is one that a test can hold and break."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.errors import (
    DiskFullError,
    ExportCancelledError,
    LedgerUnavailableError,
    RegistryUnavailableError,
    SourceError,
    StaleLeaseError,
)
from registry_export.isolation import ChildPool
from registry_export.ledger import JobState, Ledger
from registry_export.ledger.tables import cursors
from registry_export.registry import Registry
from registry_export.settings import Settings
from registry_export.worker import LEASE_S, run_begun_job, run_worker
from tests.support.outbox import empty_outbox_of
from tests.support.server import MlflowServer

pytestmark = pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning")

MODEL_YAML = """
rules:
  - models: "{name}*"
    promotions: {{stages: [Staging], aliases: [champion]}}
    targets: [torchscript]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MlflowServer(tmp_path_factory.mktemp("worker-server")) as server:
        yield server


@pytest.fixture
def client(server):
    return MlflowClient(server.uri)


@pytest.fixture
def name(client):
    name = f"worker-{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    return name


@pytest.fixture
def settings(server, tmp_path, name):
    """A worker with the hook's outbox and a ledger of its own."""
    config = tmp_path / "registry-export.yaml"
    config.write_text(MODEL_YAML.format(name=name))
    return Settings(server.uri, server.database_uri, f"sqlite:///{tmp_path / 'ledger.db'}", config)


@pytest.fixture
def over_http(settings):
    """A worker that nobody tells anything."""
    return replace(settings, outbox_uri=None)


@pytest.fixture(autouse=True)
def empty_outbox(server):
    """Leave no promotions of one test to the next one's worker."""
    yield
    empty_outbox_of(server.database_uri)


@pytest.fixture
def ledger(settings):
    ledger = Ledger(settings.ledger_uri)
    ledger.migrate()
    yield ledger
    ledger.dispose()


class Exporter:
    """Publishes what an export would, without converting anything."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = []

    def __call__(self, ref, *, targets, trigger, registry, **_rest):
        self.calls.append((ref.version, trigger))
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "manifest.json").write_text("{}")
            for target in targets:
                registry.upload(ref, Path(folder), f"exports/{target.variant}")
        registry.set_tags(ref, {f"registry_export.{target.variant}": "verified" for target in targets})
        registry.set_tags(ref, {"registry_export.status": "verified"})
        return ExportReport(ref, trigger, None, (), Status.VERIFIED, run_id="run")


def version_of(client, name, folder=None):
    run = client.create_run("0")
    return client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id).version


def tags_of(client, name, version="1"):
    tags = client.get_model_version(name, version).tags
    return {key.removeprefix("registry_export."): value for key, value in tags.items()}


def work(settings, exporter, **rest):
    run_worker(settings, once=True, export=exporter, **rest)
    return exporter


# Promotions that the hook saw.


def test_a_promotion_is_exported_and_settled(settings, client, name, ledger, caplog):
    caplog.set_level(logging.INFO, "registry_export")
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    assert work(settings, Exporter()).calls == [("1", "stage:Staging")]
    (job,) = ledger.list()
    assert (job.state, job.status, job.run_id) == (JobState.DONE, Status.VERIFIED, "run")
    tags = tags_of(client, name)
    assert (tags["status"], tags["trigger"], tags["torchscript"]) == ("verified", "stage:Staging", "verified")
    assert f"{name}/1: verified" in caplog.text


def test_a_job_that_could_not_be_settled_is_handed_back_before_the_worker_ends(settings, client, name, ledger):
    class Silent(Ledger):
        """Does not answer when a job is to be settled, and is back a moment later."""

        def complete(self, *_arguments, **_rest):
            raise LedgerUnavailableError("Down.")

        fail = complete

    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    with pytest.raises(LedgerUnavailableError):
        work(settings, Exporter(), ledger=Silent(settings.ledger_uri))
    (job,) = ledger.list()
    assert (job.state, job.attempt) == (JobState.QUEUED, 0), "it would count as a worker that has vanished"


def test_what_the_hook_saw_is_not_exported_again_by_the_reconciler(settings, client, name):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    client.set_registered_model_alias(name, "champion", "1")
    assert work(settings, Exporter()).calls == [("1", "stage:Staging"), ("1", "alias:champion")]
    assert work(settings, Exporter()).calls == []


def test_a_promotion_that_no_rule_wants_gives_the_earlier_status_back(settings, client, name, ledger):
    version = version_of(client, name)
    client.set_registered_model_alias(name, "challenger", version)
    assert tags_of(client, name) == {"status": "queued", "trigger": "alias:challenger"}
    assert work(settings, Exporter()).calls == []
    assert tags_of(client, name) == {}
    assert [job.state for job in ledger.list()] == [JobState.IGNORED]
    client.set_registered_model_alias(name, "champion", version)
    work(settings, Exporter())
    client.set_registered_model_alias(name, "challenger", version)
    assert tags_of(client, name)["status"] == "queued"
    work(settings, Exporter())
    assert (tags_of(client, name)["status"], tags_of(client, name)["trigger"]) == ("verified", "alias:champion")


def test_a_copy_is_exported_where_the_rule_says_so_and_ignored_elsewhere(settings, client, name, ledger):
    copy = client.copy_model_version(f"models:/{name}/{version_of(client, name)}", f"{name}-production")
    assert work(settings, Exporter()).calls == []
    settings.config_path.write_text(
        settings.config_path.read_text().replace("aliases: [champion]", "aliases: [], copied: true")
    )
    client.copy_model_version(f"models:/{copy.name}/{copy.version}", f"{name}-again")
    assert ("1", f"copied:{copy.name}/1") in work(settings, Exporter()).calls


def test_the_targets_tag_overrides_the_rule(settings, client, name):
    version = version_of(client, name)
    client.set_model_version_tag(name, version, "registry_export.targets", "torchscript:freeze=true")
    client.transition_model_version_stage(name, version, "Staging")
    work(settings, Exporter())
    assert tags_of(client, name)["torchscript-frozen"] == "verified"


def test_a_targets_tag_that_is_wrong_says_so_on_the_page(settings, client, name, ledger):
    version = version_of(client, name)
    client.set_registered_model_tag(name, "registry_export.targets", "onyx")
    client.transition_model_version_stage(name, version, "Staging")
    work(settings, Exporter())
    tags = tags_of(client, name)
    assert tags["status"] == "failed"
    assert "onyx" in tags["error"]
    assert ledger.list()[0].state is JobState.DEAD
    assert work(settings, Exporter()).calls == []


def test_a_permanent_failure_is_on_the_page_and_in_the_ledger(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, Exporter(SourceError("The checkpoint is corrupt.")))
    tags = tags_of(client, name)
    assert (tags["status"], tags["error"]) == ("failed", "Load: The checkpoint is corrupt.")
    (job,) = ledger.list()
    assert (job.state, job.error) == (JobState.DEAD, "The checkpoint is corrupt.")
    assert work(settings, Exporter()).calls == [], "a person's turn"


def test_a_mistake_in_the_export_does_not_take_the_worker_down(settings, client, name, ledger):
    for _ in range(2):
        client.transition_model_version_stage(name, version_of(client, name), "Staging")
    assert len(work(settings, Exporter(ZeroDivisionError("planted"))).calls) == 2
    assert [job.state for job in ledger.list()] == [JobState.DONE, JobState.DEAD]
    assert ledger.list()[1].error == "ZeroDivisionError: planted"


def test_a_transient_failure_is_tried_again(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, Exporter(RegistryUnavailableError("The artifact store is down.")))
    (job,) = ledger.list()
    assert (job.state, job.error) == (JobState.FAILED, "The artifact store is down.")
    assert tags_of(client, name)["status"] == "queued"
    make_due(ledger)
    work(settings, Exporter())
    assert ledger.get(job.id).state is JobState.DONE
    assert tags_of(client, name)["status"] == "verified"


def make_due(ledger):
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE registry_export_jobs SET available_at_ms = 0")


def test_a_version_that_was_deleted_is_a_clear_sentence(settings, client, name, ledger):
    version = version_of(client, name)
    client.transition_model_version_stage(name, version, "Staging")
    client.delete_model_version(name, version)
    assert work(settings, Exporter()).calls == []
    (job,) = ledger.list()
    assert job.state is JobState.DEAD
    assert f"{name}/1" in job.error


def test_an_alias_that_moves_on_while_its_export_runs_leaves_both_versions_exported(settings, client, name, ledger):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)

    class Moving(Exporter):
        def __call__(self, ref, **rest):
            if ref.version == first:
                client.set_registered_model_alias(name, "champion", second)
            return super().__call__(ref, **rest)

    assert work(settings, Moving()).calls == [(first, "alias:champion"), (second, "alias:champion")]
    assert {tags_of(client, name, version)["status"] for version in (first, second)} == {"verified"}


@pytest.fixture
def impatient(monkeypatch):
    """MLflow's client asks a server that is down many times over."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_server_that_is_down_ends_a_single_run_with_a_clear_error(settings, impatient):
    away = replace(settings, tracking_uri="http://127.0.0.1:1", outbox_uri=None)
    with pytest.raises(RegistryUnavailableError):
        work(away, Exporter())


# Promotions that nobody told of.


def test_over_http_alone_stages_and_aliases_are_found(over_http, client, name, ledger):
    for _ in range(2):
        version_of(client, name)
    client.transition_model_version_stage(name, "1", "Staging")
    client.set_registered_model_alias(name, "champion", "2")
    assert sorted(work(over_http, Exporter()).calls) == [
        ("1", "reconciled:stage:Staging"),
        ("2", "reconciled:alias:champion"),
    ]
    assert tags_of(client, name)["trigger"] == "reconciled:stage:Staging"
    assert work(over_http, Exporter()).calls == []


def test_an_alias_that_moves_is_found(over_http, client, name):
    first, second = version_of(client, name), version_of(client, name)
    client.set_registered_model_alias(name, "champion", first)
    work(over_http, Exporter())
    client.set_registered_model_alias(name, "champion", second)
    assert work(over_http, Exporter()).calls == [(second, "reconciled:alias:champion")]
    client.set_registered_model_alias(name, "champion", first)
    assert work(over_http, Exporter()).calls == [], "the first one's export is still there"


def test_a_version_promoted_long_before_the_first_worker_is_found(over_http, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    other = version_of(client, name)
    client.transition_model_version_stage(name, other, "Archived")
    client.set_registered_model_alias(name, "champion-verified", other)
    assert work(over_http, Exporter()).calls == [("1", "reconciled:stage:Staging")]


def test_what_another_ledger_exported_is_not_exported_again(over_http, client, name, tmp_path):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(over_http, Exporter())
    fresh = replace(over_http, ledger_uri=f"sqlite:///{tmp_path / 'fresh.db'}")
    assert work(fresh, Exporter()).calls == []


def test_a_tag_that_was_deleted_by_hand_is_exported_again(settings, client, name):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, Exporter())
    client.delete_model_version_tag(name, "1", "registry_export.torchscript")
    assert work(settings, Exporter()).calls == [("1", "reconciled:stage:Staging")]


def test_files_that_were_deleted_by_hand_are_exported_again(settings, server, client, name):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(settings, Exporter())
    assert work(settings, Exporter()).calls == []
    run_id = client.get_model_version(name, "1").run_id
    (exports,) = server.folder.glob(f"artifacts/**/{run_id}/**/exports")
    shutil.rmtree(exports)
    assert work(settings, Exporter()).calls == [("1", "reconciled:stage:Staging")]
    assert work(settings, Exporter()).calls == []


def test_an_export_that_never_writes_its_tag_is_not_queued_for_ever(over_http, client, name):
    class Silent(Exporter):
        def __call__(self, ref, *, trigger, **_rest):
            self.calls.append(ref)
            return ExportReport(ref, trigger, None, (), Status.UNVERIFIED)

    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    exporter = Silent()
    for _ in range(4):
        work(over_http, exporter)
    assert len(exporter.calls) <= 2


def test_a_job_that_is_dead_is_not_queued_by_the_reconciler(over_http, client, name):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    exporter = Exporter(SourceError("The checkpoint is corrupt."))
    for _ in range(3):
        work(over_http, exporter)
    assert len(exporter.calls) == 1


def test_a_cancelled_job_does_not_leave_its_version_queued_for_ever(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    from registry_export.ledger import OutboxReader

    ledger.drain_outbox(OutboxReader(settings.outbox_uri))
    ledger.cancel(ledger.list()[0].id)
    assert work(settings, Exporter()).calls == []
    assert tags_of(client, name)["status"] == "failed"
    assert "ancelled" in tags_of(client, name)["error"]


def test_a_sweep_reads_only_what_changed(over_http, client, name, monkeypatch):
    from registry_export.registry import Registry

    for _ in range(5):
        client.transition_model_version_stage(name, version_of(client, name), "Staging")
    work(over_http, Exporter())
    time.sleep(0.01)
    ledger = Ledger(over_http.ledger_uri)
    with ledger.database.write() as connection:  # as if more than the overlap had passed
        now = int(time.time() * 1000) + 120_000
        connection.execute(cursors.update().where(cursors.c.name.startswith("versions")).values(value_ms=now))
    seen = []
    original = Registry.versions_changed_since
    monkeypatch.setattr(
        Registry,
        "versions_changed_since",
        lambda self, since: (seen.append(info.ref) or info for info in original(self, since)),
    )
    work(over_http, Exporter())
    assert seen == []


# Stopping, dying, waiting.


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_worker_that_keeps_running_exports_within_seconds_and_stops_when_told(settings, client, name, ledger):
    stop, exporter = threading.Event(), Exporter()
    thread = threading.Thread(
        target=run_worker, args=(settings,), kwargs={"stop": stop, "export": exporter, "poll_s": 0.1}
    )
    thread.start()
    try:
        client.transition_model_version_stage(name, version_of(client, name), "Staging")
        wait_until(lambda: exporter.calls == [("1", "stage:Staging")])
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_what_the_hook_writes_ends_a_long_pause(settings, client, name):
    version = version_of(client, name)
    stop, exporter = threading.Event(), Exporter()
    thread = threading.Thread(
        target=run_worker, args=(settings,), kwargs={"stop": stop, "export": exporter, "poll_s": 300.0}
    )
    thread.start()
    try:
        time.sleep(5)  # it pauses by now
        client.transition_model_version_stage(name, version, "Staging")
        wait_until(lambda: exporter.calls == [("1", "stage:Staging")])
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_worker_waits_for_a_server_that_is_down(tmp_path, caplog, impatient):
    config = tmp_path / "registry-export.yaml"
    config.write_text(MODEL_YAML.format(name="digits"))
    absent = MlflowServer(tmp_path / "server")
    settings = Settings(absent.uri, None, f"sqlite:///{tmp_path / 'ledger.db'}", config)
    stop, exporter = threading.Event(), Exporter()
    thread = threading.Thread(
        target=run_worker,
        args=(settings,),
        kwargs={"stop": stop, "export": exporter, "poll_s": 0.1, "reconcile_s": 0.1},
    )
    thread.start()
    try:
        wait_until(lambda: str(absent.port) in caplog.text)
        with absent as server:
            client = MlflowClient(server.uri)
            client.create_registered_model("digits")
            client.transition_model_version_stage("digits", version_of(client, "digits"), "Staging")
            wait_until(lambda: exporter.calls == [("1", "reconciled:stage:Staging")], 60)
            stop.set()
            thread.join(30)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


WORKER = """
import logging, sys, time
from pathlib import Path
from registry_export.settings import Settings
from registry_export.errors import ExportCancelledError
from registry_export.worker import run_worker
tracking, outbox, ledger, config, seconds = sys.argv[1:]
logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)

def export(ref, *, pool, trigger, **rest):
    print("exporting", flush=True)
    if pool.cancelled.wait(float(seconds)):
        raise ExportCancelledError("stopped")
    from registry_export.entities import ExportReport, Status
    return ExportReport(ref, trigger, None, (), Status.VERIFIED)

run_worker(Settings(tracking, outbox, ledger, Path(config)), export=export, poll_s=0.1)
print("ended", flush=True)
"""


@pytest.fixture
def start_worker(settings):
    processes = []

    def start(seconds):
        arguments = [settings.tracking_uri, settings.outbox_uri, settings.ledger_uri, str(settings.config_path)]
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(WORKER), *arguments, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the worker ended without {text!r}")


def test_the_first_signal_lets_the_export_end(start_worker, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    process = start_worker(1.5)
    read_until(process, "exporting")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "ended" in process.stdout.read()
    assert ledger.list()[0].state is JobState.DONE


def test_the_second_signal_gives_the_job_back_at_once(start_worker, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    process = start_worker(600)
    read_until(process, "exporting")
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping after")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    (job,) = ledger.list()
    assert (job.state, job.attempt) == (JobState.QUEUED, 0), "the next worker takes it, and no attempt is lost"
    assert tags_of(client, name)["status"] == "queued"


def test_a_job_of_a_killed_worker_is_exported_by_the_next(start_worker, settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    process = start_worker(600)
    read_until(process, "exporting")
    process.kill()
    process.wait()
    with ledger.database.write() as connection:  # as if the lease's minute had passed
        connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1")
    assert work(settings, Exporter()).calls == [("1", "stage:Staging")]
    (job,) = ledger.list()
    assert (job.state, job.attempt, job.vanished) == (JobState.DONE, 2, 1)


def test_a_ledger_that_does_not_answer_when_an_export_ends_counts_as_no_vanished_worker(
    settings, client, name, ledger, monkeypatch
):
    monkeypatch.setattr("registry_export.ledger.database._BUSY_TIMEOUT_MS", 50)
    client.transition_model_version_stage(name, version_of(client, name), "Staging")
    stop = threading.Event()

    class Locking(Exporter):
        def __call__(self, ref, **rest):
            report = super().__call__(ref, **rest)
            if len(self.calls) == 1:
                other = sqlite3.connect(settings.ledger_uri.removeprefix("sqlite:///"), check_same_thread=False)
                other.execute("BEGIN IMMEDIATE")
                threading.Timer(0.5, other.close).start()
            return report

    exporter = Locking()
    worker = threading.Thread(
        target=run_worker,
        args=(settings,),
        kwargs={"stop": stop, "export": exporter, "poll_s": 0.1, "reconcile_s": 1000.0},
    )
    worker.start()
    try:
        wait_until(lambda: any(job.state is JobState.DONE for job in ledger.list()))
    finally:
        stop.set()
        worker.join(30)
    (job,) = ledger.list()
    assert len(exporter.calls) == 2, "the ledger was never away"
    assert (job.vanished, job.attempt) == (0, 1), "it lost an attempt, or waited for the end of its lease"


def test_a_running_export_stops_when_its_job_is_cancelled(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")

    class Long(Exporter):
        def __call__(self, ref, *, pool, **_rest):
            ledger.cancel(ledger.list()[0].id)
            assert pool.cancelled.wait(20), "nobody stopped it"
            raise ExportCancelledError("The export was stopped.")

    work(settings, Long(), lease_s=0.4)
    assert ledger.list()[0].state is JobState.CANCELLED
    tags = tags_of(client, name)
    assert (tags["status"], "cancelled" in tags["error"]) == ("failed", True)


def test_an_export_whose_lease_was_lost_settles_nothing(settings, client, name, ledger):
    client.transition_model_version_stage(name, version_of(client, name), "Staging")

    class Robbed(Exporter):
        def __call__(self, ref, **rest):
            report = super().__call__(ref, **rest)
            with ledger.database.write() as connection:
                connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1")
            self.taken = ledger.claim("thief")
            return report

    exporter = work(settings, Robbed())
    (job,) = ledger.list()
    assert (job.state, job.worker, job.lease) == (JobState.RUNNING, "thief", exporter.taken.lease)


def test_workers_whose_ledger_is_in_mlflows_own_sqlite_file_lock_nobody_out(settings, server, client, name, caplog):
    shared = replace(settings, ledger_uri=server.database_uri)
    stop = threading.Event()
    exporters = [Exporter(), Exporter()]
    workers = [
        threading.Thread(
            target=run_worker,
            args=(shared,),
            kwargs={"stop": stop, "export": exporter, "poll_s": 0.01, "reconcile_s": 0.1},
        )
        for exporter in exporters
    ]
    versions = [version_of(client, name) for _ in range(12)]
    for worker in workers:
        worker.start()
    try:
        for version in versions:
            client.transition_model_version_stage(name, version, "Staging")
        wait_until(lambda: sum(len(exporter.calls) for exporter in exporters) >= len(versions), 60)
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)
    done = sorted(int(version) for exporter in exporters for version, _ in exporter.calls)
    assert done == sorted(int(version) for version in versions), "each one once"
    assert "locked" not in caplog.text + server.log


# Exports in the process of whoever asks.


@pytest.fixture
def begun(ledger):
    return ledger.begin(ModelVersionRef("digits", "1"), "manual", "shell")


def test_an_export_of_ones_own_is_settled_as_a_job(ledger, begun):
    report = ExportReport(begun.model_version, "manual", None, (), Status.MISMATCH, run_id="run")
    with ChildPool() as pool:
        assert run_begun_job(ledger, Registry(), begun, pool, lambda: report) is report
    job = ledger.get(begun.id)
    assert (job.state, job.status, job.run_id) == (JobState.DONE, Status.MISMATCH, "run")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (SourceError("Corrupt."), JobState.DEAD),
        (RegistryUnavailableError("Down."), JobState.DEAD),
        (ExportCancelledError("Stopped."), JobState.CANCELLED),
        (KeyError("ours"), JobState.DEAD),
        (KeyboardInterrupt(), JobState.CANCELLED),
    ],
)
def test_an_export_of_ones_own_that_fails_is_settled_too(ledger, begun, error, state):
    def fail():
        raise error

    with ChildPool() as pool, pytest.raises(type(error)):
        run_begun_job(ledger, Registry(), begun, pool, fail)
    assert ledger.get(begun.id).state is state


def test_an_export_of_ones_own_is_told_of_a_full_disk_in_a_sentence(ledger, begun):
    def fill():
        raise OSError(errno.ENOSPC, "No space left on device")

    with ChildPool() as pool, pytest.raises(DiskFullError):
        run_begun_job(ledger, Registry(), begun, pool, fill)
    assert "No space is left for temporary files" in ledger.get(begun.id).error


def test_an_export_of_ones_own_that_stood_still_past_its_lease_writes_nothing(ledger, begun):
    registry = Registry("http://127.0.0.1:9")

    def write_late():
        with ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1")
        ledger.claim("thief")
        with pytest.MonkeyPatch.context() as patch:
            later = time.monotonic() + LEASE_S
            patch.setattr("registry_export.ledger.heartbeat.time.monotonic", lambda: later)
            registry.set_tags(begun.model_version, {"registry_export.status": "verified"})

    with ChildPool() as pool, pytest.raises(StaleLeaseError, match="thief"):
        run_begun_job(ledger, registry, begun, pool, write_late)


def test_an_export_of_ones_own_whose_lease_was_lost_says_so(ledger, begun):
    def lose():
        with ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1")
        ledger.claim("thief")
        return ExportReport(begun.model_version, "manual", None, (), Status.VERIFIED)

    with ChildPool() as pool, pytest.raises(StaleLeaseError, match="thief"):
        run_begun_job(ledger, Registry(), begun, pool, lose)
