"""One suite over every source and every target that is installed, a stranger's too.

`table` says what each cell must give. Every source format and every target is run once in the quick suite;
the other cells are slow, and `make matrix` writes down what all of them gave.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from registry_export.compatibility import needs_of, numbers
from registry_export.contents import Subject, contents_of
from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.format import Toolchain
from registry_export.inference import Origin
from registry_export.isolation import ChildPool, Limits
from registry_export.manifest import read_manifest, verify_files, write_artifact
from registry_export.tensors import read_tensors
from tests.contract.table import CELLS, QUICK, QUICK_SOURCES, REFUSED, UNVERIFIED, why_not, why_unreachable
from tests.support.laboratory import FORMATS, Laboratory, wanted_by
from tests.support.sources import SOURCES


def sources():
    return [slow_unless(source in QUICK_SOURCES, source) for source in SOURCES]


def slow_unless(quick, *parameters):
    return pytest.param(*parameters, marks=() if quick else pytest.mark.slow)


def cells(reachable_only=False):
    return [
        slow_unless((source, target) in QUICK, source, target)
        for source, target in CELLS
        if not (reachable_only and why_not(source, target))
    ]


def with_mlflow(toolchain: Toolchain) -> Toolchain:
    """What a user's process has imported who loads an export through MLflow."""
    modules = (*toolchain.modules, "mlflow.pyfunc")
    return Toolchain(f"{toolchain.name}-mlflow", modules, toolchain.environment)


@pytest.fixture(scope="module")
def laboratory(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, ChildPool(Limits(timeout_s=300)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        yield Laboratory(tmp_path_factory.mktemp("formats"), pool, wanted_by(chosen(request.session.items)))


def chosen(items):
    """Return the cells of the tests that will run, so that `-k onnx` converts into nothing else."""
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    return dict.fromkeys((p["source"], p["target"]) for p in parameters if {"source", "target"} <= set(p))


def test_every_source_format_has_a_model_in_the_suite():
    assert {name for name, f in FORMATS.items() if f.kind} == {source.format for source in SOURCES.values()}


@pytest.mark.parametrize("source", sources())
def test_a_model_is_recognised_by_its_format_alone(laboratory, source):
    exported = laboratory.exported(source)
    assert exported.checkpoint.format.name == SOURCES[source].format
    flavors = exported.checkpoint.files.flavors
    found = [name for name, f in FORMATS.items() if f.locate(exported.folder, flavors)]
    assert found == [SOURCES[source].format]


@pytest.mark.parametrize("source", sources())
def test_the_batch_is_found_to_be_dynamic(laboratory, source):
    reference = laboratory.exported(source).reference
    assert not reference.unstable
    if SOURCES[source].static:
        assert reference.interface.inputs[0].shape[0] != "batch"
        return
    assert reference.interface.inputs[0].shape[0] == "batch", reference.notes
    assert reference.interface.outputs[0].shape[0] == "batch"
    assert {rung.name for rung in reference.rungs} >= {"example", "batch 1", "batch 3"}


@pytest.mark.parametrize(("source", "target"), cells())
def test_a_target_is_verified_or_its_refusal_says_why(laboratory, source, target):
    exported = laboratory.exported(source)
    result, folder = exported.made[target]
    if why_unreachable(source, target):
        assert result.status is Status.FAILED
        assert result.error.type == "UnsupportedTargetError"
        assert "It can be made from:" in result.error.message
        assert folder is None
        return
    if (source, target) in REFUSED:
        assert result.status is Status.FAILED
        assert result.error.message
        return
    if result.status is Status.UNVERIFIED and (target in UNVERIFIED or exported.reference.stand_in):
        assert result.verification.reason
    else:
        assert result.status is Status.VERIFIED, (result.error, result.verification, result.attempts)
        assert is_quantized(result) or result.verification.metrics.max_abs_diff < 1e-4
    assert result.opset_version or result.format_version
    assert result.size_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("source", "target"), cells(reachable_only=True))
def test_names_order_and_dynamic_batch_are_the_sources(laboratory, source, target):
    exported = laboratory.exported(source)
    result, _ = exported.made[target]
    inputs, outputs = exported.reference.interface.inputs, exported.reference.interface.outputs
    described = result.description.interface
    assert [s.name for s in described.inputs] == [s.name for s in inputs]
    assert [s.name for s in described.outputs] == [s.name for s in outputs]
    if SOURCES[source].static:
        assert not isinstance(described.inputs[0].shape[0], str)
    elif result.status is Status.VERIFIED:
        assert result.dynamic_dimensions[inputs[0].name]["0"] == "batch"
    else:
        assert described.inputs[0].shape[0] == "batch"


@pytest.mark.parametrize(("source", "target"), cells(reachable_only=True))
def test_mlflow_loads_the_published_folder_and_predicts_the_same(laboratory, source, target, tmp_path):
    exported = laboratory.exported(source)
    result, folder = exported.made[target]
    report = ExportReport(ModelVersionRef("m", "1"), "manual", exported.checkpoint.record, (result,), result.status)
    write_artifact(folder, report, result, exported.checkpoint.files)
    assert verify_files(folder, read_manifest(folder))
    if result.status is Status.UNVERIFIED:
        return  # its runtime is not here
    rung = exported.reference.rungs[0]
    arguments = {"model": str(folder), "inputs": rung.inputs, "folder": str(tmp_path / "predicted")}
    toolchain, reads = with_mlflow(FORMATS[target].toolchain), (folder, Path(rung.inputs))
    laboratory.pool.call(toolchain, "tests.contract.test_formats:predict", arguments, tmp_path, reads=reads)
    predicted, expected = read_tensors(tmp_path / "predicted"), read_tensors(Path(rung.expected))
    assert list(predicted) == list(expected)
    for name, array in expected.items():
        quantum = np.abs(array).max() / 10 if is_quantized(result) else 1e-5
        np.testing.assert_allclose(predicted[name], array, rtol=1e-3, atol=quantum)


@pytest.mark.parametrize(("source", "target"), cells(reachable_only=True))
def test_the_lines_of_python_that_the_report_shows_load_the_file_and_call_it(laboratory, source, target, tmp_path):
    if not hasattr(FORMATS[target], "snippets"):
        pytest.skip("the format shows no lines, which it need not")
    result, folder = laboratory.exported(source).made[target]
    python, *others = FORMATS[target].snippets(result.description)
    assert python.language == "Python"
    assert len({(snippet.language, snippet.runtime) for snippet in (python, *others)}) == 1 + len(others)
    assert not any("«" in snippet.code for snippet in (python, *others))
    if target in UNVERIFIED or python.runtime.endswith("on macOS"):
        compile(python.code, target, "exec")
        return  # its runtime is not here
    arguments = {"code": python.code, "folder": str(folder)}
    toolchain = FORMATS[target].toolchain
    outcome = laboratory.pool.call(toolchain, "tests.contract.test_formats:run", arguments, tmp_path, reads=(folder,))
    assert outcome.value == len(result.description.interface.outputs)


def run(arguments):
    """Run lines of Python beside an export's files; returns how many outputs hold something. Runs in a child."""
    os.chdir(arguments["folder"])
    names = {}
    exec(compile(arguments["code"], "snippet.py", "exec"), names)
    results = names.get("outputs", [value for value in names.values() if type(value).__name__ == "Mat"])
    arrays = [value.read() if hasattr(value, "read") else np.array(value) for value in flat(results)]
    return sum(array.size > 0 for array in arrays)


def flat(results):
    """Yield the tensors in what a runtime has answered."""
    if isinstance(results, Mapping):
        results = list(results.values())
    if not isinstance(results, (list, tuple)):
        yield results
        return
    for result in results:
        yield from flat(result)


UNTOLD = {"tensorrt"}
"""Targets whose files tell neither tensors nor operators."""


@pytest.mark.parametrize("source", sources())
def test_every_source_can_be_looked_into(laboratory, source):
    contents = look(laboratory, laboratory.exported(source).checkpoint.origin)
    assert contents.format == SOURCES[source].format
    assert contents.parameters > 0
    floats = [t for t in contents.tensors if t.dtype.startswith("float") and t.minimum is not None]
    assert floats or "quantized" in source
    assert all(t.minimum <= t.mean <= t.maximum and t.std >= 0 for t in floats)
    assert contents.operators or any(sentence.startswith("Operators") for sentence in contents.unsaid)


@pytest.mark.parametrize(("source", "target"), cells(reachable_only=True))
def test_every_export_can_be_looked_into(laboratory, source, target):
    if not hasattr(FORMATS[target], "inspect"):
        pytest.skip("the format does not look into its files, which it need not")
    exported = laboratory.exported(source)
    result, folder = exported.made[target]
    origin = Origin(target, str(folder / FORMATS[target].filename), exported.reference.interface)
    contents = look(laboratory, origin)
    assert contents.size_bytes <= result.size_bytes
    assert contents.opset_version == result.opset_version
    assert contents.format_version == result.format_version
    if target in UNTOLD:
        assert len(contents.unsaid) >= 2
        return
    assert sum(contents.operators.values()) > 0
    assert contents.parameters == contents.modules[0].parameters > 0
    if not is_quantized(result):
        assert_holds_the_last_layer(contents, look(laboratory, exported.checkpoint.origin))


def assert_holds_the_last_layer(contents, source):
    """The weights of the last layer are what no converter folds into others; layouts may be turned."""
    floats = [t for t in source.tensors if t.dtype == "float32" and len(t.shape) == 2 and t.std]
    if not floats:
        return
    last = floats[-1]
    close = [
        t
        for t in contents.tensors
        if t.mean is not None and math.prod(t.shape) == math.prod(last.shape) and abs(t.mean - last.mean) < 1e-6
    ]
    assert any(abs(t.std - last.std) < 1e-6 and abs(t.minimum - last.minimum) < 1e-6 for t in close), last


@pytest.mark.parametrize(("source", "target"), cells(reachable_only=True))
def test_what_a_plan_says_of_runtimes_holds_for_the_file(laboratory, source, target):
    """A plan may promise less than the file keeps, and never more."""
    exported = laboratory.exported(source)
    result, _ = exported.made[target]
    kind = FORMATS[result.path[-2]].kind
    options = {option.name: option.default for option in FORMATS[target].options}
    planned = {n.runtime: [] for n in needs_of(FORMATS[target], options, kind)}
    for need in needs_of(FORMATS[target], options, kind):
        planned[need.runtime].append(need.oldest)
    for need in needs_of(FORMATS[target], options, kind, result.description):
        if need.oldest and any(planned.get(need.runtime, ())) and need.runtime != "openvino":
            assert numbers(need.oldest) <= max(numbers(version) for version in planned[need.runtime])


def look(laboratory, origin):
    return contents_of(Subject("the suite's", origin), FORMATS, laboratory.pool)


@pytest.mark.parametrize(
    ("source", "target", "variant"),
    [
        ("pytorch", "onnx:precision=int8", "onnx-int8"),
        ("pytorch", "onnx:precision=fp16", "onnx-fp16"),
        ("pytorch", "tflite:precision=int8", "tflite-int8"),
    ],
)
def test_a_coarser_precision_is_judged_as_one_and_says_what_it_was_calibrated_on(laboratory, source, target, variant):
    result, _ = laboratory.exported(source).made[variant]
    assert result.status is Status.VERIFIED, (result.error, result.verification)
    assert result.description.precision == variant.partition("-")[2]
    assert is_quantized(result) is (result.description.precision == "int8")
    assert any("Calibrated and verified on the same inputs" in note for note in result.notes) is is_quantized(result)


def is_quantized(result):
    return not result.verification.tolerance.by_element


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
