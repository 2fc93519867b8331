from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import registry_export_plugins._coreml.without_tensorflow  # noqa: F401  before anything imports coremltools whole
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, UnsupportedModelError, VerificationError
from registry_export.isolation import ChildPool, Limits
from registry_export_plugins._coreml import runner as coreml_runner
from registry_export_plugins._coreml.package import Package
from registry_export_plugins._coreml.structure import check
from registry_export_plugins.coreml import TENSORFLOW_COREML, TORCH_COREML, CoreML, accepts
from registry_export_plugins.exported_program import ExportedProgram
from registry_export_plugins.torchscript import TorchScript
from tests import models
from tests.unit.plugins.torch_support import (
    CASES,
    Source,
    assert_same_numbers,
    convert,
    dynamic_axes,
    make_source,
    spec,
)


def source_of(name: str, folder: Path) -> Source:
    case = CASES[name]
    return make_source(models.seeded(case.make()).eval(), case.inputs, folder)


@pytest.mark.parametrize("name", CASES)
def test_a_module_becomes_a_package_with_its_numbers_names_order_and_open_sizes(name: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    assert_same_numbers(CoreML(), path, source)
    found = CoreML().describe(path)
    assert [s.name for s in found.interface.inputs] == [s.name for s in source.interface.inputs]
    assert [s.name for s in found.interface.outputs] == [s.name for s in source.interface.outputs]
    assert dynamic_axes(found.interface) == dynamic_axes(source.interface)
    assert (found.format_version, found.precision) == ("8", "fp32")


def test_a_decision_on_data_is_compiled_because_a_trace_would_keep_one_branch(tmp_path: Path):
    source = source_of("python_if", tmp_path / "source")
    path, result = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    assert [bool(attempt.error) for attempt in result.attempts] == [True, False]
    assert "cond" in CoreML().describe(path).details["operators"].split(", ")


def test_a_torch_cond_computes_both_branches_and_selects(tmp_path: Path):
    source = source_of("cond", tmp_path / "source")
    original = torch.cond
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    assert {"relu", "tanh", "select"} <= set(CoreML().describe(path).details["operators"].split(", "))
    assert torch.cond is original


@pytest.mark.parametrize("name", ["residual", "lstm", "transformer"])
@pytest.mark.parametrize("way", [ExportedProgram(), TorchScript()], ids=lambda way: way.name)
def test_programs_and_torchscript_keep_their_open_sizes(way, name: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    between, _ = convert(way, "torch_module", source.load(), source, tmp_path / "between")
    path, _ = convert(CoreML(), way.kind, way.load(between, source.interface), source, tmp_path / "package")
    assert_same_numbers(CoreML(), path, source)
    assert dynamic_axes(CoreML().describe(path).interface) == dynamic_axes(source.interface)


def test_a_torch_cond_in_a_program_selects_too(tmp_path: Path):
    source = source_of("cond", tmp_path / "source")
    between, _ = convert(ExportedProgram(), "torch_module", source.load(), source, tmp_path / "between")
    program = ExportedProgram().load(between, source.interface)
    path, _ = convert(CoreML(), "exported_program", program, source, tmp_path / "package")
    assert_same_numbers(CoreML(), path, source)
    assert {"relu", "tanh", "select"} <= set(CoreML().describe(path).details["operators"].split(", "))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory) -> Source:
    return source_of("transformer", tmp_path_factory.mktemp("transformer"))


def weight_bytes(path: Path) -> int:
    return (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size


def test_half_precision_keeps_float32_outputs_and_halves_the_weights(transformer: Source, tmp_path: Path):
    full, _ = convert(CoreML(), "torch_module", transformer.load(), transformer, tmp_path / "full")
    half, _ = convert(CoreML(), "torch_module", transformer.load(), transformer, tmp_path / "half", precision="fp16")
    found = CoreML().describe(half)
    assert found.precision == "fp16"
    assert {s.dtype for s in found.interface.outputs} == {"float32"}
    assert weight_bytes(half) < 0.7 * weight_bytes(full)
    assert_same_numbers(CoreML(), half, transformer, atol=5e-3)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize(("asked", "palette"), [({"precision": "int8"}, ""), ({"palettize": 4}, "4 bits")])
def test_compressed_weights_are_read_back_as_such(transformer: Source, tmp_path: Path, asked, palette, target):
    asked = {**asked, "minimum_deployment_target": target}
    path, _ = convert(CoreML(), "torch_module", transformer.load(), transformer, tmp_path, **asked)
    found = CoreML().describe(path)
    assert found.precision == "int8"
    assert found.details.get("palette", "") == palette
    assert_same_numbers(CoreML(), path, transformer, atol=0.5 if palette else 0.1)


def test_compression_of_a_model_without_weights_worth_it_is_refused(tmp_path: Path):
    source = source_of("keyword_only", tmp_path / "source")
    with pytest.raises(UnsupportedModelError, match="no weights to compress"):
        convert(CoreML(), "torch_module", source.load(), source, tmp_path, precision="int8")


def test_a_later_deployment_target_uses_its_operators_and_its_specification(transformer: Source, tmp_path: Path):
    asked = {"minimum_deployment_target": "iOS18", "largest_dimension": 64}
    path, _ = convert(CoreML(), "torch_module", transformer.load(), transformer, tmp_path, **asked)
    found = CoreML().describe(path)
    assert found.format_version == "9"
    assert "scaled_dot_product_attention" in found.details["operators"]
    assert found.details["bounds"] == "input_ids (1..64, 1..64), attention_mask (1..64, 1..64)"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"palettize": 4, "precision": "int8"}, "both compress"),
        ({"palettize": 4, "minimum_deployment_target": "iOS15"}, "iOS16"),
        ({"precision": "int8", "minimum_deployment_target": "iOS15"}, "iOS16"),
        ({"palettize": 3, "minimum_deployment_target": "iOS17"}, "iOS18"),
        ({"palettize": 3, "minimum_deployment_target": "iOS18"}, ""),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_runs(options, reason):
    assert (reason in accepts(options)) if reason else accepts(options) == ""


@pytest.mark.parametrize("shape", [("batch", 6, "height", "width"), ("batch", 6, 5)])
def test_a_group_norm_keeps_open_sizes(shape: tuple, tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.GroupNorm(3, 6), torch.nn.GroupNorm(2, 6, affine=False))
    source = make_source(models.seeded(model).eval(), (spec("input", "float32", *shape),), tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    assert_same_numbers(CoreML(), path, source)
    assert dynamic_axes(CoreML().describe(path).interface) == dynamic_axes(source.interface)


def test_an_operator_without_translation_is_named_with_its_layer(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), models.Inverse())
    source = make_source(models.seeded(model), (spec("input", "float32", "batch", 3, 3),), tmp_path / "source")
    with pytest.raises(UnsupportedModelError, match=r"linalg_inv.*used in 1\b"):
        convert(CoreML(), "torch_module", source.load(), source, tmp_path)


def test_names_that_core_ml_cannot_take_come_back_as_the_source_has_them(tmp_path: Path):
    inputs = (spec("state", "float32", "batch", 3), spec("img:0", "float32", "batch", 6))
    source = make_source(models.seeded(models.TwoInputs()), inputs[::-1], tmp_path / "source")
    named = replace(source.interface.outputs[0], name="img 0")
    source = replace(source, interface=Interface(source.interface.inputs, (named,)))
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    check(path, source.interface)
    assert [feature.name for feature in Package(path).spec.description.input] == ["img_0", "state_"]
    assert [feature.name for feature in Package(path).spec.description.output] == ["img_0_1"]
    assert [s.name for s in CoreML().describe(path).interface.outputs] == ["img 0"]


@pytest.fixture(scope="module")
def conv(tmp_path_factory) -> tuple[Path, Source]:
    folder = tmp_path_factory.mktemp("conv")
    source = source_of("conv", folder / "source")
    return convert(CoreML(), "torch_module", source.load(), source, folder)[0], source


def test_the_weights_can_be_read_from_the_file(conv):
    path, source = conv
    package = Package(path)
    values = [value for op in package.operations() for key, value in op.attributes.items() if key == "val"]
    arrays = [package.array(value) for value in values if value.WhichOneof("value") == "blobFileValue"]
    expected = source.load().wrapped.classify.weight.detach().numpy()
    assert any(array.shape == expected.shape and np.array_equal(array, expected) for array in arrays)


def test_the_same_model_gives_the_same_files(conv, tmp_path: Path):
    path, source = conv
    again, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    for file in (file.relative_to(path) for file in path.rglob("*") if file.is_file()):
        assert (again / file).read_bytes() == (path / file).read_bytes(), file


def edit_spec(path: Path, change) -> None:
    package = Package(path)
    change(package)
    package.model_file.write_bytes(package.spec.SerializeToString())


def weights(path: Path) -> Path:
    return next(path.rglob("weight.bin"))


def first_use(package: Package):
    return next(op for op in package.block.operations if op.type == "conv").inputs["x"].arguments[0]


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


DAMAGE = {
    "manifest gone": (lambda p: (p / "Manifest.json").unlink(), "Manifest.json"),
    "specification gone": (lambda p: next(p.rglob("model.mlmodel")).unlink(), "lacks"),
    "specification cut": (lambda p: os.truncate(next(p.rglob("model.mlmodel")), 1000), "damaged|no ML program"),
    "weights gone": (lambda p: weights(p).unlink(), "weight file"),
    "weights cut": (lambda p: os.truncate(weights(p), weights(p).stat().st_size - 64), "too short"),
    "blob overwritten": (lambda p: overwrite(weights(p), 64, b"\0\0\0\0"), "no weights at offset"),
    "blob of another type": (lambda p: overwrite(weights(p), 68, b"\1\0\0\0"), "float16"),
    "operation uses what is not there": (
        lambda p: edit_spec(p, lambda k: setattr(first_use(k), "name", "nowhere")),
        "nowhere",
    ),
    "output not made": (lambda p: edit_spec(p, lambda k: k.block.outputs.__setitem__(0, "ghost")), "ghost"),
    "output not declared": (lambda p: edit_spec(p, lambda k: k.spec.description.output.pop()), "outputs none"),
    "declared with another size": (
        lambda p: edit_spec(
            p,
            lambda k: setattr(
                k.spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges[3], "upperBound", 9
            ),
        ),
        "8..9",
    ),
    "declared with another type": (
        lambda p: edit_spec(p, lambda k: setattr(k.spec.description.output[0].type.multiArrayType, "dataType", 131104)),
        "int32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_is_found_out_without_core_ml(conv, tmp_path: Path, damage: str):
    path, source = conv
    copy = tmp_path / path.name
    shutil.copytree(path, copy)
    harm, told = DAMAGE[damage]
    harm(copy)
    with pytest.raises(VerificationError, match=told) as caught, CoreML().open(copy, source.interface):
        pass
    assert not isinstance(caught.value, RuntimeAbsentError)


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        (("image", "float32", ("batch", 1, 8, 8)), ("output", "float32", ("batch", 10)), "inputs x instead of image"),
        (("x", "float32", ("batch", 3, 8, 8)), ("output", "float32", ("batch", 10)), "sizes"),
        (("x", "int64", ("batch", 1, 8, 8)), ("output", "float32", ("batch", 10)), "int64"),
        (("x", "float32", ("batch", 1, 8, 8)), ("output", "float32", ("batch", 11)), "sizes"),
        (("x", "float32", ("batch", 1, 8, 8)), ("output", "float32", ("batch", "batch")), "fixed to 10"),
    ],
)
def test_a_package_of_another_interface_is_refused(conv, inputs, outputs, told: str):
    with pytest.raises(VerificationError, match=told):
        check(conv[0], Interface((TensorSpec(*inputs),), (TensorSpec(*outputs),)))


class FakeCoreML:
    """Answers as Core ML does: arrays by feature, in the package's types."""

    def __init__(self, answer):
        self.answer, self.fed = answer, {}

    def predict(self, fed):
        self.fed = fed
        return self.answer


def test_the_runner_feeds_and_returns_the_sources_types(tmp_path: Path, monkeypatch):
    source = source_of("bool", tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    fake = FakeCoreML(
        {
            "output_0": np.ones(1, np.float32),
            "output_1_0": np.zeros((2, 4), np.float32),
            "output_1_1": np.array([1, 0], np.int32),
        }
    )
    monkeypatch.setattr(coreml_runner, "_load", lambda path, units: fake)
    runner = coreml_runner.CoreMLRunner(path, source.interface)
    actual = runner.infer(source.runs[0][0])
    expected = source.runs[0][1]
    assert {name: (a.dtype, a.shape) for name, a in actual.items()} == {
        name: (a.dtype, a.shape) for name, a in expected.items()
    }
    assert list(actual) == list(expected)
    assert {name: array.dtype.name for name, array in fake.fed.items()} == {"x": "float32", "mask": "int32"}


def test_the_runner_refuses_integers_that_do_not_fit(transformer: Source, tmp_path: Path, monkeypatch):
    path, _ = convert(CoreML(), "torch_module", transformer.load(), transformer, tmp_path)
    monkeypatch.setattr(coreml_runner, "_load", lambda path, units: FakeCoreML({}))
    runner = coreml_runner.CoreMLRunner(path, transformer.interface)
    with pytest.raises(VerificationError, match="int32"):
        runner.infer({name: array + 2**40 for name, array in transformer.runs[0][0].items()})


@pytest.fixture(scope="module")
def pool() -> Iterator[ChildPool]:
    with pytest.MonkeyPatch.context() as patch, ChildPool(Limits(timeout_s=200)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
        yield pool


def call(pool: ChildPool, toolchain, function: str, work: Path, **arguments) -> dict:
    (work / "child").mkdir(parents=True)
    function = f"tests.unit.plugins.coreml_children:{function}"
    return pool.call(toolchain, function, arguments, work / "child", writes=(work,)).value


def test_the_torch_toolchain_leaves_tensorflow_out(pool: ChildPool, tmp_path: Path):
    names = ["torch", "coremltools", "tensorflow"]
    assert call(pool, TORCH_COREML, "loaded_modules", tmp_path, names=names) == {
        "torch": True,
        "coremltools": True,
        "tensorflow": False,
    }


@pytest.mark.parametrize(
    ("name", "through"),
    [
        ("mixed", "keras_model"),
        ("recurrent", "keras_model"),
        ("attention", "tf_function"),
        ("odd_names", "keras_model"),
    ],
)
def test_a_keras_model_keeps_its_numbers_names_and_open_sizes(pool: ChildPool, tmp_path: Path, name: str, through: str):
    made = call(pool, TENSORFLOW_COREML, "convert_keras", tmp_path, name=name, folder=str(tmp_path), through=through)
    package, source = json.loads(json.dumps(made["package"])), json.loads(json.dumps(made["source"]))
    assert [item[0] for item in package] == [item[0] for item in source]
    open_sizes = [[isinstance(size, str) for size in item[2]] for item in source]
    assert [[isinstance(size, str) for size in item[2]] for item in package] == open_sizes
    assert len(made["ways"]) == 1


def test_outputs_that_are_scalars_in_the_source_are_known_again():
    from registry_export_plugins._coreml.names import SCALARS_KEY, features, scalars_metadata, source_scalars

    made = features((TensorSpec("total", "float32", ()), TensorSpec("rows", "float32", ("batch",))), half=False)
    assert source_scalars({SCALARS_KEY: scalars_metadata(made)}) == {"total"}
    assert source_scalars({}) == source_scalars({SCALARS_KEY: "{"}) == frozenset()
