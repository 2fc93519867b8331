"""A registered version in, published exports out, through a real server."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.errors import ModelVersionNotFoundError, SamplesError, SourceError
from registry_export.export import export_model_version
from registry_export.isolation import ChildPool, Limits
from registry_export.registry import Registry
from registry_export.report import from_json
from registry_export.reverification import reverify_model_version
from tests.support.authors import authors
from tests.support.registered import TENSORFLOW, TORCH, rows

FORMATS = discover_formats()


class Desk:
    """Registers models on a server and exports them."""

    def __init__(self, uri: str, pool: ChildPool, folder: Path):
        self.uri, self.pool, self.folder = uri, pool, folder
        self.registry = Registry(uri)

    def register(self, builder: str, name: str | None = None, toolchain=TORCH) -> ModelVersionRef:
        name = name or builder.replace("_", "-")
        work = self.folder / name
        work.mkdir(exist_ok=True)
        arguments = {"uri": self.uri, "name": name}
        outcome = authors().call(toolchain, f"tests.support.registered:{builder}", arguments, work)
        return ModelVersionRef(name, outcome.value)

    def export(self, ref: ModelVersionRef, targets: str, **rest) -> ExportReport:
        return export_model_version(
            ref,
            targets=parse_targets(targets, "test", FORMATS),
            trigger="manual",
            registry=self.registry,
            formats=FORMATS,
            pool=self.pool,
            **rest,
        )

    def tags(self, ref: ModelVersionRef):
        return self.registry.version(ref).tags


@pytest.fixture(scope="module")
def desk(mlflow_server, tmp_path_factory):
    os.environ["PYTHONPATH"] = str(Path.cwd())
    with ChildPool(Limits(timeout_s=300)) as pool:
        yield Desk(mlflow_server.uri, pool, tmp_path_factory.mktemp("spine"))
    del os.environ["PYTHONPATH"]


@pytest.fixture(scope="module")
def exported(desk):
    ref = desk.register("pickled")
    return ref, desk.export(ref, "onnx, onnx:opset_version=13, torchscript")


def by_variant(report: ExportReport):
    return {result.variant: result for result in report.targets}


def test_everything_that_is_promised_is_on_the_version(desk, exported, tmp_path):
    ref, report = exported
    assert report.status is Status.VERIFIED, report
    tags = desk.tags(ref)
    assert tags["registry_export.status"] == "verified"
    assert tags["registry_export.trigger"] == "manual"
    assert tags["registry_export.run_id"] == report.run_id
    assert tags["registry_export.onnx-opset13"].startswith("verified · opset 13 · ")
    assert "max abs diff" in tags["registry_export.onnx"]
    assert "registry_export.error" not in tags
    listed = desk.registry.list_artifacts(ref, "exports")
    for name in ("report.html", "report.md", "report.json", "onnx/model.onnx", "onnx/MLmodel", "onnx/manifest.json"):
        assert f"exports/{name}" in listed, listed


def test_the_models_uri_of_an_export_predicts_what_the_source_predicts(desk, exported, tmp_path):
    ref, _ = exported
    arguments = {"uri": desk.uri, "model": f"{ref.uri}/exports/onnx", "source": ref.uri}
    outcome = authors().call(TORCH, "tests.integration.test_spine:both_predict", arguments, tmp_path)
    assert outcome.value < 1e-5


def both_predict(arguments):
    """Predict with the source and with an export, both as MLflow's users load them; runs in a child."""
    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    expected = mlflow.pyfunc.load_model(arguments["source"]).predict(rows(7, 5))
    actual = mlflow.pyfunc.load_model(arguments["model"]).predict(rows(7, 5))
    return float(np.abs(np.asarray(expected) - np.asarray(actual)).max())


def test_metrics_are_on_the_export_run(desk, exported):
    import mlflow

    _, report = exported
    metrics = mlflow.MlflowClient(desk.uri).get_run(report.run_id).data.metrics
    assert metrics["onnx/opset_version"] == 20
    assert metrics["onnx-opset13/opset_version"] == 13
    assert metrics["onnx/size_bytes"] == by_variant(report)["onnx"].size_bytes
    assert metrics["torchscript/max_abs_diff"] < 1e-5
    assert metrics["onnx/latency_ms"] > 0
    assert metrics["onnx/convert_seconds"] > 0


def test_the_report_keeps_how_differences_are_spread_over_all_elements_that_were_compared(desk, exported, tmp_path):
    ref, report = exported
    read = from_json(desk.registry.download_artifact(ref, "exports/report.json", tmp_path).read_bytes())
    for result in read.targets:
        (found,) = result.verification.distributions.values()
        assert found == next(iter(by_variant(report)[result.variant].verification.distributions.values()))
        assert found.elements == found.equal + sum(found.counts) > 0
        assert found.expected
        assert np.allclose(found.expected, found.actual, atol=1e-4)
        largest = result.verification.metrics.max_abs_diff
        assert largest == 0 or found.edges[-2] * 0.99 <= largest <= found.edges[-1] * 1.01


def test_promoting_again_converts_nothing(desk, exported):
    ref, before = exported
    again = desk.export(ref, "onnx, onnx:opset_version=13, torchscript")
    assert all(result.reused for result in again.targets)
    assert again.source == before.source
    assert [r.sha256 for r in again.targets] == [r.sha256 for r in before.targets]
    distributions = [[r.verification.distributions for r in report.targets] for report in (again, before)]
    assert distributions[0] == distributions[1]
    assert desk.tags(ref)["registry_export.status"] == "verified"


def test_whether_a_target_is_required_is_asked_for_anew_of_what_is_kept(desk, exported):
    ref, _ = exported
    for required in (False, True):
        report = desk.export(ref, f"onnx:required={str(required).lower()}")
        assert by_variant(report)["onnx"].reused
        assert by_variant(report)["onnx"].required is required


def test_a_further_target_is_added_and_what_is_verified_is_kept(desk):
    ref = desk.register("pickled", "adding-up")
    desk.export(ref, "onnx")
    report = desk.export(ref, "exported_program")
    assert set(by_variant(report)) == {"onnx", "exported_program"}
    assert desk.tags(ref)["registry_export.onnx"].startswith("verified")


def test_one_failed_target_leaves_its_siblings_alive(desk):
    ref = desk.register("keras_without_signature", toolchain=TENSORFLOW)
    report = desk.export(ref, "torchscript, onnx")
    results = by_variant(report)
    assert results["torchscript"].error.type == "UnsupportedTargetError"
    assert results["onnx"].status is Status.VERIFIED
    assert results["onnx"].verification.evidence == "random"
    assert report.status is Status.FAILED
    assert desk.tags(ref)["registry_export.torchscript"].startswith("failed · Plan: ")
    assert desk.tags(ref)["registry_export.status"] == "failed"


def test_a_version_from_a_run_publishes_into_the_runs_model_folder(desk):
    ref = desk.register("from_a_run")
    report = desk.export(ref, "onnx")
    assert report.status is Status.VERIFIED
    assert "exports/onnx/model.onnx" in desk.registry.list_artifacts(ref, "exports")


def test_a_static_checkpoint_is_exported_static_and_told_what_to_log(desk):
    ref = desk.register("static_pt2")
    report = desk.export(ref, "onnx")
    assert report.status is Status.VERIFIED, report
    assert report.targets[0].dynamic_dimensions == {}
    assert any("2 or more rows" in note for note in report.source.notes)


def test_dropout_baked_in_is_the_sources_fault_and_never_verified(desk):
    ref = desk.register("training_pt2")
    report = desk.export(ref, "onnx")
    assert report.status is Status.UNVERIFIED
    assert "source is unstable" in report.targets[0].verification.reason


def test_a_branch_on_data_is_compiled_because_a_trace_would_keep_one_side_of_it(desk):
    ref = desk.register("branching")
    report = desk.export(ref, "torchscript, torchscript:method=script", samples=both_branches(desk.folder))
    results = by_variant(report)
    assert results["torchscript-script"].status is Status.VERIFIED
    assert results["torchscript"].status is Status.VERIFIED
    assert [attempt.way for attempt in results["torchscript"].attempts] == ["torch.jit.trace", "torch.jit.script"]
    assert "fixed the decision in line" in results["torchscript"].attempts[0].error


def both_branches(folder: Path) -> str:
    """Rows whose sum is below zero: the first row alone, and longer batches, go the other way."""
    path = folder / "samples.npz"
    down = -np.abs(rows(4))
    down[0] = 1.0
    np.savez(path, x=down)
    return str(path)


def test_no_signature_is_a_refusal_that_says_what_to_log(desk):
    ref = desk.register("without_signature")
    with pytest.raises(SamplesError, match="input_example="):
        desk.export(ref, "onnx")
    tags = desk.tags(ref)
    assert tags["registry_export.status"] == "failed"
    assert "input_example=" in tags["registry_export.error"]
    assert "Exports: failed." in desk.registry.version(ref).description


def test_a_corrupt_checkpoint_is_named_in_the_tags(desk):
    ref = desk.register("corrupt")
    with pytest.raises(SourceError, match="cannot be read"):
        desk.export(ref, "onnx")
    assert "cannot be read" in desk.tags(ref)["registry_export.error"]


def test_a_failed_version_that_is_mended_loses_its_error(desk, tmp_path):
    ref = ModelVersionRef("without-signature", "1")
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=rows(3))
    report = desk.export(ref, "onnx", samples=str(samples))
    assert report.targets[0].verification.evidence == "samples"
    assert "registry_export.error" not in desk.tags(ref)
    assert "Exports: verified." in desk.registry.version(ref).description


def test_a_version_that_does_not_exist_is_named(desk):
    with pytest.raises(ModelVersionNotFoundError, match="nobody/9"):
        desk.export(ModelVersionRef("nobody", "9"), "onnx")


def test_report_json_reads_back_as_the_report(desk, exported, tmp_path):
    ref, report = exported
    path = desk.registry.download_artifact(ref, "exports/report.json", tmp_path)
    read = msgspec.json.decode(path.read_bytes(), type=ExportReport)
    assert {r.variant for r in read.targets} >= {r.variant for r in report.targets}


def test_a_pruned_variant_is_compared_with_the_pruned_checkpoint_and_names_it(desk):
    ref = desk.register("pickled", "pruned")
    pruned = "pruning=method=l1_unstructured+amount=0.5"
    report = desk.export(ref, f"onnx, onnx:{pruned}, torchscript:{pruned}")
    assert report.status is Status.VERIFIED, report
    found = by_variant(report)
    assert list(found) == ["onnx", "onnx-l1_unstructured50", "torchscript-l1_unstructured50"]
    assert found["onnx"].sparsity is None
    assert not any("Pruned" in note for note in (*found["onnx"].notes, *report.source.notes))
    for variant in ("onnx-l1_unstructured50", "torchscript-l1_unstructured50"):
        assert 0.3 < found[variant].sparsity <= 0.5
        assert any("Pruned by l1_unstructured, amount 0.5" in note for note in found[variant].notes)
        assert found[variant].verification.metrics.max_abs_diff < 1e-5
    assert found["onnx"].sha256 != found["onnx-l1_unstructured50"].sha256
    again = desk.export(ref, f"onnx:{pruned}")
    assert by_variant(again)["onnx-l1_unstructured50"].reused
    verified = reverify_model_version(
        ref, registry=desk.registry, formats=FORMATS, pool=desk.pool, variants=("onnx-l1_unstructured50",)
    )
    assert verified.status is Status.VERIFIED


def test_what_quantisation_aware_training_has_made_is_exported_as_what_it_is(desk, tmp_path):
    """No precision is asked for and nothing is calibrated: the export keeps the scales that were trained."""
    ref = desk.register("quantisation_aware")
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=rows(16))
    report = desk.export(ref, "onnx, exported_program", samples=str(samples))
    assert report.status is Status.VERIFIED, report
    onnx = by_variant(report)["onnx"]
    assert onnx.options["precision"] == "fp32"
    assert onnx.description.precision == "int8"
    assert not any("Calibrated" in note for note in onnx.notes)
