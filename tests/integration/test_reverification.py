"""Stored exports against their source again: what is found torn, what has changed with the runtimes, what stays."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import pytest

from registry_export.cli import main
from registry_export.entities import Status
from registry_export.errors import ArtifactError, RegistryExportError
from registry_export.exports import load
from registry_export.ledger import Ledger
from registry_export.page import read_report
from tests.support import planted
from tests.support.planted_versions import Steps


@pytest.fixture(scope="module")
def server(mlflow_server):
    """The one that the modules share."""
    return mlflow_server


@pytest.fixture(autouse=True)
def _plain_machine(versions):
    yield
    for name in ("accelerator", "drifted"):
        planted.switch(name, on=False)


def by_variant(report):
    return {result.variant: result for result in report.targets}


def test_a_new_verification_converts_nothing_and_says_when_and_with_what_it_was(versions):
    ref = versions.register("again")
    versions.export(ref)
    before = versions.export(ref)
    assert before.targets[0].reused
    steps = Steps()
    report = versions.verify(ref, reporter=steps)
    assert "convert" not in steps.names
    assert steps.names.index("check files") < steps.names.index("reference") < steps.names.index("verify")
    (result,) = report.targets
    assert (result.status, result.reused) == (Status.VERIFIED, False)
    assert result.sha256 == before.targets[0].sha256
    assert result.exported_at == before.targets[0].exported_at
    assert result.verification.verified_at >= before.targets[0].verification.verified_at != ""
    assert {"numpy", "python", "registry-export"} <= set(result.verification.tools)
    assert read_report(versions.registry, ref) == report
    manifest = json.loads(versions.stored(ref, "exports/planted/manifest.json"))
    assert manifest["verification"]["verified_at"] == result.verification.verified_at
    assert versions.tags(ref)["status"] == "verified"
    assert versions.tags(ref)["trigger"] == report.trigger == "manual", "what asked for the export"
    measured = versions.client.get_metric_history(before.run_id, "planted/cosine")
    assert len(measured) == 2, "beside the export's own"


def test_a_changed_file_is_named_its_export_fails_and_the_others_are_still_verified(versions):
    ref = versions.register("torn")
    versions.export(ref, "planted, planted_next")
    whole = versions.stored(ref, "exports/planted/model.planted")
    versions.store(ref, "exports/planted/model.planted", whole[:-1] + b"!")
    report = versions.verify(ref)
    torn, other = by_variant(report)["planted"], by_variant(report)["planted_next"]
    assert (torn.status, other.status, report.status) == (Status.FAILED, Status.VERIFIED, Status.FAILED)
    assert "model.planted is not the file that was verified" in torn.error.message
    assert versions.tags(ref)["planted"].startswith("failed · Artifact: planted: model.planted is not the file")
    assert versions.tags(ref)["status"] == "failed"
    with pytest.raises(ArtifactError):
        load(ref.uri, "planted", registry=versions.registry)
    versions.store(ref, "exports/planted/model.planted", whole)
    assert versions.verify(ref, "planted").status is Status.VERIFIED
    assert versions.tags(ref)["planted"].startswith("verified")


def test_a_folder_that_is_gone_is_a_failure(versions):
    ref = versions.register("gone")
    versions.export(ref)
    versions.registry.delete_artifacts(ref, "exports/planted")
    report = versions.verify(ref)
    assert report.targets[0].error.message.startswith(f"{ref} has no exports/planted")


def test_what_a_runtime_of_today_computes_wrong_is_a_mismatch(versions):
    ref = versions.register("drifting")
    assert versions.export(ref, "planted:fault=drifts").status is Status.VERIFIED
    planted.switch("drifted")
    assert versions.verify(ref).status is Status.MISMATCH
    assert versions.tags(ref)["planted-drifts"].startswith("mismatch")


@pytest.mark.slow
def test_what_could_run_nowhere_yet_is_verified_where_it_can_and_keeps_that_verdict_elsewhere(versions):
    ref = versions.register("elsewhere")
    report = versions.export(ref, "planted:fault=elsewhere")
    assert report.targets[0].verification.absent
    assert "no accelerator of generation 9" in versions.tags(ref)["planted-elsewhere"]
    assert versions.verify(ref).status is Status.UNVERIFIED
    planted.switch("accelerator")
    assert versions.verify(ref).status is Status.VERIFIED
    planted.switch("accelerator", on=False)
    steps = Steps()
    assert versions.verify(ref, reporter=steps).status is Status.VERIFIED
    assert any("planted-elsewhere stays verified" in note for note in steps.notes)


def test_a_source_that_cannot_be_run_leaves_the_page_as_it_is_but_for_torn_files(versions):
    ref = versions.register("sourceless")
    versions.export(ref, "planted, planted_next")
    versions.store(ref, "planted.npz", b"noise")
    before = versions.tags(ref)
    with pytest.raises(RegistryExportError):
        versions.verify(ref)
    assert versions.tags(ref) == before
    versions.store(ref, "exports/planted/model.planted", b"noise")
    with pytest.raises(RegistryExportError):
        versions.verify(ref)
    assert versions.tags(ref)["planted"].startswith("failed")
    assert versions.tags(ref)["planted_next"] == before["planted_next"]


def test_a_failed_or_waiting_export_keeps_its_word_on_the_page(versions):
    ref = versions.register("waiting")
    versions.export(ref)
    versions.registry.set_tags(ref, {"registry_export.status": "queued"})
    versions.verify(ref)
    assert versions.tags(ref)["status"] == "queued"
    versions.registry.set_tags(ref, {"registry_export.status": "failed", "registry_export.error": "Load: no"})
    versions.verify(ref)
    assert (versions.tags(ref)["status"], versions.tags(ref)["error"]) == ("failed", "Load: no")


def test_a_conversion_that_failed_has_no_files_to_verify_and_stays_failed(versions):
    ref = versions.register("refused")
    report = versions.export(ref, "planted, planted:fault=refuse")
    again = versions.verify(ref)
    assert by_variant(again)["planted-refuse"] == by_variant(report)["planted-refuse"]
    assert by_variant(again)["planted"].status is Status.VERIFIED


@pytest.fixture
def ledger(versions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", versions.uri)
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.delenv("REGISTRY_EXPORT_CONFIG", raising=False)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    yield ledger
    ledger.dispose()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_the_command_is_a_job_of_its_own_kind_and_exits_as_the_status_is(versions, ledger, capsys):
    ref = versions.register("commanded")
    versions.export(ref, "planted, planted:fault=wrong:required=false")
    assert run("verify", ref.uri) == 0
    assert "planted-wrong" in capsys.readouterr().out
    job = ledger.list(ref=ref)[0]
    assert (job.trigger, job.state, job.status, job.verifies) == ("verify", "done", "verified", True)
    assert run("verify", ref.uri, "--target", "planted", "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "verified"
    versions.store(ref, "exports/planted-wrong/model.planted", b"noise")
    assert run("verify", ref.uri) == 1, "torn files are nobody's option"
    assert "model.planted" in capsys.readouterr().out
    assert run("verify", ref.uri, "--target", "onnx") == 1
    assert "has no export 'onnx'" in capsys.readouterr().err
    assert run("verify", "models:/nobody") == 2
    assert ledger.list(ref=ref)[0].state == "dead", "an export that is not there"


def test_the_rules_samples_and_tolerance_judge_as_they_do_at_an_export(versions, ledger, capsys):
    ref = versions.register("ruled")
    versions.export(ref, "planted:fault=wrong")
    assert run("verify", ref.uri) == 1
    Path("registry-export.yaml").write_text(
        "rules: [{models: ruled, targets: [planted: {fault: wrong}], tolerance: {atol: 0.1, rtol: 0.1}}]"
    )
    assert run("verify", ref.uri) == 0


def test_the_source_and_its_exports_are_timed_one_after_another_once_nothing_is_converted(versions):
    ref = versions.register("timed")
    steps = Steps()
    report = versions.export(ref, "planted, planted:fault=absent, planted:fault=wrong", reporter=steps)
    first = steps.names.index("time")
    assert not {"convert", "verify", "reference"}.intersection(steps.names[first:])
    verification = by_variant(report)["planted"].verification
    assert 0 < verification.latency_ms <= verification.latency_p90_ms
    assert verification.latency_runs >= 10
    assert verification.source_latency_ms == report.source.latency.median_ms
    assert by_variant(report)["planted-absent"].verification.latency_ms is None
    again = versions.verify(ref, "planted").targets[0].verification
    assert again.latency_ms > 0
    metrics = versions.client.get_run(report.run_id).data.metrics
    assert metrics["planted/latency_ms"] == again.latency_ms


def test_nothing_is_timed_where_a_person_has_switched_it_off(versions, ledger, monkeypatch, capsys):
    monkeypatch.setenv("REGISTRY_EXPORT_LATENCY", "off")
    ref = versions.register("untimed")
    assert run("export", ref.uri, "--target", "planted") == 0
    report = read_report(versions.registry, ref)
    assert report.status is Status.VERIFIED
    assert report.source.latency is report.targets[0].verification.latency_ms is None


def test_a_call_that_crashes_while_it_is_timed_changes_no_verdict(versions, monkeypatch):
    monkeypatch.setattr("registry_export.timing.TIMED", "tests.integration.test_reverification:crash")
    report = versions.export(versions.register("crashing"))
    assert report.status is Status.VERIFIED
    assert any("latency could not be measured" in note for note in report.targets[0].notes)


def crash(_arguments):
    """In place of the timing; runs in a child."""
    ctypes.string_at(0)
