"""What the endpoint says of a worker, and where it may listen; a real worker is watched in `test_operators.py`."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from registry_export.entities import ExportReport, ModelVersionRef, Status, TargetResult
from registry_export.errors import ConfigurationError, LedgerUnavailableError
from registry_export.format import Toolchain
from registry_export.isolation import ChildPool, Limits
from registry_export.ledger import Census, Job, JobState
from registry_export.reporter import Reporter
from registry_export.worker.health import SILENT_S, Probe
from registry_export.worker.listener import listening, parse_address
from registry_export.worker.metrics import Metrics

PLAIN = Toolchain("plain", ("json",))
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def pool():
    with ChildPool(Limits(timeout_s=1.0)) as pool:
        yield pool


@pytest.fixture
def metrics(ledger, pool):
    return Metrics(("onnx", "tflite"), pool, Census(ledger.database))


def shown(metrics):
    return generate_latest(metrics.registry).decode()


def job(trigger="stage:Staging", state=JobState.DONE, status=Status.VERIFIED, first_claim=True, waited=2.0):
    claimed = LONG_AGO + timedelta(seconds=waited)
    version = ModelVersionRef("secret-name", "1")
    return Job(1, version, trigger, state, 1, LONG_AGO, claimed, LONG_AGO, status=status, first_claim=first_claim)


@pytest.mark.parametrize(
    ("text", "address"),
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:9464", ("::1", 9464)), (":1", None)],
)
def test_without_a_host_only_this_machine_is_answered(text, address):
    assert parse_address(text) == (address or ("127.0.0.1", 1))


@pytest.mark.parametrize("text", ["", "host", "host:", "127.0.0.1:http", "1:65536", "-1"])
def test_an_address_that_is_none_is_refused_in_a_sentence(text):
    with pytest.raises(ConfigurationError, match="is no address to listen at"):
        parse_address(text)


def test_a_port_that_is_taken_is_refused_in_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="Nothing can listen at"), listening(address, None, None):
            pass


def answer(url, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as got:
            return got.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_client_that_says_nothing_keeps_nobody_waiting_and_paths_are_only_three():
    health = SimpleNamespace(live=lambda: {"worker": "It hangs."}, ready=dict)
    with listening("127.0.0.1:0", CollectorRegistry(), health) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):
            answers = {path: answer(url + path) for path in ("/metrics", "/healthz", "/readyz", "/", "/metrics/../x")}
            assert answers == {"/metrics": 200, "/healthz": 503, "/readyz": 200, "/": 404, "/metrics/../x": 404}
            assert answer(f"{url}/readyz", "POST") == 405
    with pytest.raises(urllib.error.URLError, match="refused"):
        answer(f"{url}/readyz")


def test_a_part_that_is_silent_is_a_problem_and_is_asked_once():
    asked, release = [], threading.Event()

    def ask():
        asked.append(1)
        release.wait(10)

    probe = Probe(ask, lambda: None, patience_s=0.1, good_for_s=0.0)
    assert "has not answered" in probe.problem()
    assert "has not answered" in probe.problem()
    assert len(asked) == 1
    release.set()
    probe.patience_s = 30.0
    assert probe.problem() == ""


def test_an_answer_counts_for_a_while_and_an_error_is_told_without_its_password():
    asked, told = [], []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            raise LedgerUnavailableError("postgresql://me:hunter22@db did not answer.")

    probe = Probe(ask, lambda: told.append(1), good_for_s=60.0)
    assert probe.problem() == probe.problem() == "postgresql://me:***@db did not answer."
    probe.good_for_s = 0.0
    probe.begin()
    probe.good_for_s = 60.0
    assert probe.problem() == probe.problem() == ""
    assert (len(asked), len(told)) == (2, 1)


def test_a_fault_of_ours_in_a_probe_is_a_problem():
    assert "ZeroDivisionError" in Probe(lambda: 1 / 0, lambda: None).problem()


def test_a_worker_is_silent_until_it_turns_round(metrics, monkeypatch):
    later = time.monotonic() + SILENT_S + 1
    monkeypatch.setattr("registry_export.worker.metrics.time.monotonic", lambda: later)
    assert metrics.silent_s > SILENT_S
    metrics.turned()
    assert metrics.silent_s == 0


def test_jobs_are_counted_by_state_and_not_at_every_look(metrics, ledger):
    assert 'registry_export_jobs{state="queued"} 0.0' in shown(metrics)
    ledger.enqueue(ModelVersionRef("m", "1"), "stage:Staging")
    assert 'registry_export_jobs{state="queued"} 0.0' in shown(metrics)
    count = Census(ledger.database).take()
    assert (count.states[JobState.QUEUED], count.states[JobState.DEAD]) == (1, 0)
    assert 0 <= count.oldest_waiting_s < 60


def test_what_no_ledger_says_is_left_out_and_not_invented(metrics, ledger):
    with ledger.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE registry_export_jobs RENAME TO elsewhere")
    assert "registry_export_jobs{" not in shown(metrics)
    assert "registry_export_busy 0.0" in shown(metrics)


def test_labels_come_from_lists_and_name_no_model(metrics):
    metrics.claimed(job(waited=2.0))
    metrics.claimed(job(first_claim=False, waited=500.0))
    for trigger in ("stage:Staging", "alias:champion", "copied:other/1", "reconciled:stage:Staging", "a:b", "c:d"):
        metrics.left(job(trigger), JobState.DONE)
    metrics.left(job("verify:schedule", status=Status.MISMATCH), JobState.DONE)
    metrics.left(job(state=JobState.DEAD, status=Status.FAILED), JobState.DEAD)
    metrics.left(job(), JobState.FAILED)
    metrics.left(job(), None)
    steps = metrics.steps(Reporter())
    steps.step_finished("convert", "tflite-int8", "done", 3.0)
    steps.step_finished("convert", "whatever", "failed: no", 3.0)
    result = TargetResult("onnx-opset17", "onnx", {}, Status.VERIFIED, reused=True)
    older = TargetResult("tflite", "tflite", {}, Status.FAILED)
    report = ExportReport(ModelVersionRef("secret-name", "1"), "manual", None, (result, older), Status.VERIFIED)
    metrics.exported(report, {"onnx-opset17"})
    text = shown(metrics)
    for line in (
        'promotions_total{trigger="stage"} 2.0',
        'promotions_total{trigger="reconciled"} 1.0',
        'promotions_total{trigger="other"} 2.0',
        'exports_total{status="verified"} 6.0',
        'exports_total{status="failed"} 1.0',
        'verifications_total{status="mismatch"} 1.0',
        'attempts_total{outcome="failed"} 1.0',
        'attempts_total{outcome="lost"} 1.0',
        'targets_total{format="onnx",status="verified"} 1.0',
        'cache_hits_total{format="onnx"} 1.0',
        'step_duration_seconds_bucket{format="tflite",le="5.0",step="convert"} 1.0',
        'step_duration_seconds_count{format="other",step="convert"} 1.0',
        "queue_delay_seconds_count 1.0",
        'queue_delay_seconds_bucket{le="2.5"} 1.0',
    ):
        assert f"registry_export_{line}" in text, line
    assert 'trigger="verify"' not in text, "a verification is no promotion"
    assert "secret-name" not in text
    assert "champion" not in text


def test_a_child_that_is_killed_is_counted_at_its_limit(metrics, pool, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    assert 'children_killed_total{limit="time"} 0.0' in shown(metrics)
    with pytest.raises(Exception, match="did not end within 1 s"):
        pool.call(PLAIN, "tests.unit.child_functions:hang", {}, tmp_path)
    text = shown(metrics)
    assert 'children_killed_total{limit="time"} 1.0' in text
    assert 'children_killed_total{limit="memory"} 0.0' in text
    assert "registry_export_warm_parents 1.0" in text
