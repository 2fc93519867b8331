"""The evaluator as a whole: precisions, compressed weights, control flow, states, and packages that mean harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export_plugins._coreml.evaluation.families import OPERATORS
from registry_export_plugins._coreml.evaluation.runner import EvaluatedModel
from registry_export_plugins._coreml.package import Package
from registry_export_plugins._coreml.runner import EvaluatorRunner, open_package
from registry_export_plugins.coreml import CoreML
from tests import models
from tests.unit.plugins.coreml_evaluation_support import ct, evaluated, mb, numbers, packaged
from tests.unit.plugins.torch_support import CASES, Source, assert_same_numbers, convert, make_source, spec

X = numbers(3, 4)


def source_of(name: str, folder: Path) -> Source:
    case = CASES[name]
    return make_source(models.seeded(case.make()).eval(), case.inputs, folder)


@pytest.mark.parametrize("target", ["iOS15", "iOS18"])
@pytest.mark.parametrize("name", CASES)
def test_a_package_for_every_release_has_its_sources_numbers(name: str, target: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path, minimum_deployment_target=target)
    with CoreML().open(path, source.interface) as runner:
        assert isinstance(runner, EvaluatorRunner)
        assert (runner.by, runner.runtime) == ("evaluator", "registry-export's evaluator of ML programs")
        for inputs, expected in source.runs:
            for name_, array in runner.infer(inputs).items():
                np.testing.assert_allclose(array, expected[name_], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["conv", "lstm", "transformer"])
def test_half_precision_is_rounded_after_every_operator(name: str, tmp_path: Path):
    source = source_of(name, tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path, precision="fp16")
    assert_same_numbers(CoreML(), path, source, atol=5e-3)
    with CoreML().open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            for output, array in runner.infer(inputs).items():
                np.testing.assert_array_equal(array, array.astype(np.float16).astype(np.float32))
                assert not np.array_equal(expected[output], expected[output].astype(np.float16))


def test_what_overflows_in_half_precision_is_infinite():
    path = packaged(lambda x: mb.square(x=x), {"x": X}, precision="FLOAT16")
    (result,) = evaluated(path, {"x": np.full((3, 4), 300, np.float32)})
    assert np.isinf(result).all()


def test_a_trace_that_fixed_a_branch_is_caught_and_the_compiled_source_is_not(tmp_path: Path):
    model = models.seeded(models.PythonIf()).eval()
    source = make_source(model, CASES["python_if"].inputs, tmp_path / "source")
    right, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path / "right")
    assert_same_numbers(CoreML(), right, source)
    traced = torch.jit.trace(source.load(), tuple(torch.from_numpy(a) for a in source.runs[0][0].values()))
    wrong, _ = convert(CoreML(), "torchscript", traced, source, tmp_path / "wrong")
    with pytest.raises(AssertionError):
        assert_same_numbers(CoreML(), wrong, source)


def test_the_sides_of_decisions_are_noted(tmp_path: Path):
    source = source_of("python_if", tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    with CoreML().open(path, source.interface) as runner:
        sides = []
        for inputs, _ in (source.runs[0], *source.runs):
            runner.infer(inputs)
            sides.append({side for taken in runner.decisions.values() for side in taken})
    assert len(sides[0]) == 1
    assert sides[-1] == {True, False}


class Masked(torch.nn.Module):
    """Chooses between two numbers, and between rows, by conditions that are larger than they are."""

    def forward(self, x):
        chosen = torch.where(x > 0, torch.tensor(0.5), torch.tensor(-1e4))
        return chosen + torch.where(x > 1, x[:1] * 2, torch.tensor(3.0))


def test_a_selection_has_the_sizes_of_its_condition(tmp_path: Path):
    source = make_source(Masked(), (spec("x", "float32", "batch", 4),), tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    assert {
        len(op.outputs[0].type.tensorType.dimensions) for op in Package(path).operations() if op.type == "select"
    } == {2}
    assert_same_numbers(CoreML(), path, source)


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize(
    "asked", [{"precision": "int8"}, *({"palettize": bits} for bits in (1, 2, 3, 4, 6, 8))], ids=str
)
def test_compressed_weights_are_those_that_coremltools_decompresses(asked, target: str, tmp_path: Path):
    if asked.get("palettize") == 3 and target != "iOS18":
        pytest.skip("a palette of 3 bits needs iOS 18")
    source = source_of("conv", tmp_path / "source")
    options = {"minimum_deployment_target": target, **asked}
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path / "packed", **options)
    whole = ct.optimize.coreml.decompress_weights(ct.models.MLModel(str(path), skip_model_load=True))
    whole.save(str(tmp_path / "whole.mlpackage"))
    for inputs, _ in source.runs:
        fed = {"x": inputs["x"]}
        assert any(op.type.startswith("constexpr_") for op in Package(path).operations())
        np.testing.assert_allclose(evaluated(path, fed), evaluated(tmp_path / "whole.mlpackage", fed), atol=1e-3)


def test_an_operator_that_is_missing_is_named(tmp_path: Path, monkeypatch):
    source = source_of("conv", tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    monkeypatch.delitem(OPERATORS, "max_pool")
    with pytest.raises(RuntimeAbsentError, match=r"operator max_pool\b"), CoreML().open(path, source.interface):
        pass


def test_random_numbers_are_never_verified():
    path = packaged(lambda x: mb.add(x=x, y=mb.random_normal(shape=[3, 4])), {"x": X})
    with pytest.raises(RuntimeAbsentError, match="random_normal draws random numbers"):
        EvaluatedModel(Package(path))


def test_a_position_outside_the_tensor_spoils_what_reads_there():
    rows = {"x": X, "i": np.array([1, 3], np.int32)}
    (result,) = evaluated(packaged(lambda x, i: mb.gather(x=x, indices=i, axis=0), rows), rows)
    np.testing.assert_array_equal(result, [X[1], np.full(4, np.nan)])
    build = lambda x, i: mb.scatter(data=x, indices=i, updates=mb.slice_by_size(x=x, begin=[0, 0], size=[2, 4]))  # noqa: E731
    with pytest.raises(VerificationError, match="outside the tensor"):
        evaluated(packaged(build, rows), rows)


def edited(path: Path, change: Callable[[Package], None]) -> Package:
    package = Package(path)
    change(package)
    package.model_file.write_bytes(package.spec.SerializeToString())
    return Package(path)


def operation(package: Package, kind: str) -> Any:
    return next(op for op in package.operations() if op.type == kind)


def test_a_result_of_other_sizes_than_the_program_tells_is_an_error():
    path = packaged(lambda x: mb.relu(x=mb.transpose(x=x, perm=[1, 0])), {"x": X})
    change = lambda p: setattr(operation(p, "transpose").outputs[0].type.tensorType.dimensions[0].constant, "size", 5)  # noqa: E731
    with pytest.raises(VerificationError, match=r"transpose.*\(4, 3\).*\(5, 3\)"):
        EvaluatedModel(edited(path, change)).predict({"x": X})


def test_a_tensor_of_absurd_size_is_an_error_before_memory_is_taken():
    path = packaged(lambda x: mb.add(x=x, y=mb.reduce_sum(x=mb.fill(shape=[3, 4], value=1.0))), {"x": X})

    def change(package: Package) -> None:
        name = operation(package, "fill").inputs["shape"].arguments[0].name
        held = next(op for op in package.operations() if op.outputs and op.outputs[0].name == name)
        held.attributes["val"].immediateValue.tensor.ints.values[:] = [10**6, 10**6]

    with pytest.raises(VerificationError, match="would make a tensor"):
        EvaluatedModel(edited(path, change)).predict({"x": X})


def test_a_constant_with_too_few_elements_is_an_error():
    path = packaged(lambda x: mb.transpose(x=x, perm=[1, 0]), {"x": X})
    change = lambda p: operation(p, "const").attributes["val"].immediateValue.tensor.ints.values.pop()  # noqa: E731
    with pytest.raises(VerificationError, match="constant of the program is damaged"):
        EvaluatedModel(edited(path, change))


def test_a_loop_without_its_blocks_is_an_error():
    def build(x):
        low = mb.less(x=mb.reduce_max(x=x), y=0.0)
        return mb.cond(pred=low, _true_fn=lambda: mb.abs(x=x), _false_fn=lambda: mb.exp(x=x))

    path = packaged(build, {"x": X})
    with pytest.raises(VerificationError, match="1 blocks instead of 2"):
        EvaluatedModel(edited(path, lambda p: operation(p, "cond").blocks.pop()))


def test_an_input_outside_the_packages_sizes_is_refused(tmp_path: Path):
    source = source_of("conv", tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path, largest_dimension=4)
    runner = open_package(path, source.interface)
    with pytest.raises(VerificationError, match=r"1\.\.4"):
        runner.infer({"x": numbers(5, 1, 8, 8)})


def test_every_tensor_that_depends_on_the_inputs_can_be_looked_at(tmp_path: Path):
    source = source_of("conv", tmp_path / "source")
    path, _ = convert(CoreML(), "torch_module", source.load(), source, tmp_path)
    runner = EvaluatorRunner(path, source.interface)
    inputs, expected = source.runs[0]
    seen = {item.name: (np.array(item.value), item) for item in runner.intermediates(inputs)}
    (last, item) = list(seen.values())[-1]
    np.testing.assert_allclose(last, expected["output"], atol=1e-5)
    assert item.operator == "linear"
    assert all(name in seen or name == "x" for _, step in seen.values() for name in step.after or ())
