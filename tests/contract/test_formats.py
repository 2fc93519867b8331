"""One suite over every source and every target that is installed, a stranger's too.

The table says what each cell must give. A format that is not in it fails the suite, so that nobody can
forget a cell.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from registry_export.checkpoint import Checkpoint, read_checkpoint
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.format import Toolchain
from registry_export.graph import plan_export
from registry_export.isolation import ChildPool, Limits
from registry_export.manifest import read_manifest, verify_files, write_artifact
from registry_export.reference import Reference
from registry_export.targets import Bench, Made, export_targets, run_reference
from registry_export.tensors import read_tensors
from tests.support.sources import SOURCES

FORMATS = discover_formats()
TARGETS = [name for name, format_ in FORMATS.items() if format_.conversions]

UNREACHABLE = {
    (source, target): "no maintained way leads from TensorFlow or ONNX into PyTorch"
    for source in ("keras", "saved_model", "onnx")
    for target in ("torchscript", "exported_program")
}
"""Cells without a route, and why. All others must be verified."""


REACHABLE = [(source, target) for source in SOURCES for target in TARGETS if (source, target) not in UNREACHABLE]


def with_mlflow(toolchain: Toolchain) -> Toolchain:
    """What a user's process has imported who loads an export through MLflow."""
    modules = (*toolchain.modules, "mlflow.pyfunc")
    return Toolchain(f"{toolchain.name}-mlflow", modules, toolchain.environment)


@dataclass
class Laboratory:
    """Sources with their reference outputs, and the exports made of them, each once."""

    folder: Path
    pool: ChildPool
    targets: list[str]
    _made: dict[str, tuple[Checkpoint, Reference, dict[str, Made]]]

    def exported(self, source: str) -> tuple[Checkpoint, Reference, dict[str, Made]]:
        if source not in self._made:
            self._made[source] = self._export(source)
        return self._made[source]

    def _export(self, source: str) -> tuple[Checkpoint, Reference, dict[str, Made]]:
        toolchain, builder = SOURCES[source]
        work = self.folder / source
        (work / "build").mkdir(parents=True)
        folder = work / "model"
        self.pool.call(toolchain, f"tests.support.sources:{builder}", {"folder": str(folder)}, work / "build")
        checkpoint = read_checkpoint(folder, FORMATS)
        bench = Bench(FORMATS, self.pool, work)
        logged = checkpoint.write_example(work / "sample")
        sample, evidence = (str(work / "sample"), "example") if logged else ("", "random")
        targets = parse_targets(", ".join(self.targets), "the contract suite", FORMATS) if self.targets else ()
        reference = run_reference(
            bench, checkpoint.origin, str(sample) if evidence == "example" else "", evidence, targets
        )
        plan = plan_export(checkpoint.format, targets, FORMATS)
        return checkpoint, reference, export_targets(bench, checkpoint.origin, plan, plan.targets, reference)


@pytest.fixture(scope="module")
def laboratory(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, ChildPool(Limits(timeout_s=300)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        yield Laboratory(tmp_path_factory.mktemp("formats"), pool, chosen_targets(request.session.items), {})


def chosen_targets(items):
    """Return the targets of the tests that will run, so that `-k onnx` converts into nothing else."""
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    chosen = {given["target"] for given in parameters if "target" in given}
    return [target for target in TARGETS if target in chosen]


def test_every_source_format_has_a_model_in_the_suite():
    assert {name for name, f in FORMATS.items() if f.kind} - set(SOURCES) <= {"torchscript"}


@pytest.mark.parametrize("source", SOURCES)
def test_a_logged_model_is_recognised_by_its_format_alone(laboratory, source):
    checkpoint, _, _ = laboratory.exported(source)
    assert checkpoint.format.name == source
    found = [
        name for name, f in FORMATS.items() if f.locate(laboratory.folder / source / "model", checkpoint.files.flavors)
    ]
    assert found == [source]


@pytest.mark.parametrize("source", SOURCES)
def test_the_batch_is_found_to_be_dynamic(laboratory, source):
    _, reference, _ = laboratory.exported(source)
    assert reference.interface.inputs[0].shape[0] == "batch", reference.notes
    assert reference.interface.outputs[0].shape[0] == "batch"
    assert {rung.name for rung in reference.rungs} >= {"example", "batch 1", "batch 3"}
    assert not reference.unstable


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_target_is_verified_or_its_refusal_says_why(laboratory, source, target):
    result, folder = laboratory.exported(source)[2][target]
    if (source, target) in UNREACHABLE:
        assert result.status is Status.FAILED
        assert result.error.type == "UnsupportedTargetError"
        assert "It can be made from:" in result.error.message
        assert folder is None
        return
    assert result.status is Status.VERIFIED, (result.error, result.verification, result.attempts)
    assert result.verification.metrics.max_abs_diff < 1e-4
    assert result.opset_version or result.format_version
    assert result.size_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("source", "target"), REACHABLE)
def test_names_order_and_dynamic_batch_are_the_sources(laboratory, source, target):
    _, reference, made = laboratory.exported(source)
    result, _ = made[target]
    described = result.description.interface
    assert [s.name for s in described.inputs] == [s.name for s in reference.interface.inputs]
    assert [s.name for s in described.outputs] == [s.name for s in reference.interface.outputs]
    name = reference.interface.inputs[0].name
    assert result.dynamic_dimensions == {name: {"0": "batch"}}


@pytest.mark.parametrize(("source", "target"), REACHABLE)
def test_mlflow_loads_the_published_folder_and_predicts_the_same(laboratory, source, target, tmp_path):
    checkpoint, reference, made = laboratory.exported(source)
    result, folder = made[target]
    report = ExportReport(ModelVersionRef("m", "1"), "manual", checkpoint.record, (result,), result.status)
    write_artifact(folder, report, result, checkpoint.files)
    assert verify_files(folder, read_manifest(folder))
    rung = reference.rungs[0]
    arguments = {"model": str(folder), "inputs": rung.inputs, "folder": str(tmp_path / "predicted")}
    laboratory.pool.call(
        with_mlflow(FORMATS[target].toolchain), "tests.contract.test_formats:predict", arguments, tmp_path
    )
    predicted, expected = read_tensors(tmp_path / "predicted"), read_tensors(Path(rung.expected))
    assert list(predicted) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(predicted[name], array, rtol=1e-3, atol=1e-5)


def predict(arguments):
    """Load an artifact as MLflow's users do and predict; runs in a child."""
    import mlflow

    from registry_export.tensors import write_tensors

    model = mlflow.pyfunc.load_model(arguments["model"])
    inputs = {name: np.array(array) for name, array in read_tensors(Path(arguments["inputs"])).items()}
    try:
        outputs = model.predict(inputs)
    except mlflow.exceptions.MlflowException:
        outputs = model.predict(next(iter(inputs.values())))  # the signature has one tensor without a name
    if not isinstance(outputs, dict):
        names = msgspec.json.decode(Path(arguments["model"], "manifest.json").read_bytes())["outputs"]
        outputs = {names[0]["name"]: outputs}
    write_tensors(Path(arguments["folder"]), outputs)
