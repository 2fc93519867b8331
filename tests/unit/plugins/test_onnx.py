"""ONNX as a target of every PyTorch kind, as a source, at every opset."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, RuntimeAbsentError, SourceError, VerificationError
from registry_export.format import EXPORTED_PROGRAM, ONNX_MODEL, TORCH_MODULE, TORCHSCRIPT, ConversionRequest
from registry_export_plugins._onnx.candidates import Wanted
from registry_export_plugins._onnx.exporters import program_to_onnx
from registry_export_plugins._onnx.files import read
from registry_export_plugins._onnx.finishing import settle
from registry_export_plugins._onnx.opsets import opset_of, to_opset
from registry_export_plugins._torch.export import export_program
from registry_export_plugins.onnx import DEFAULT_OPSET, HIGHEST_OPSET, Onnx
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

NOTHING = Interface(inputs=())


@pytest.fixture
def source_of(tmp_path):
    def make(name: str) -> Source:
        case = CASES[name]
        return make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)

    return make


def _check_file(path: Path, source: Source, opset: int) -> None:
    described = Onnx().describe(path)
    assert described.opset_version == opset
    assert [s.name for s in described.interface.inputs] == [s.name for s in source.interface.inputs]
    assert [s.name for s in described.interface.outputs] == [s.name for s in source.interface.outputs]
    for own, wanted in zip(described.interface.inputs, source.interface.inputs, strict=True):
        assert own == wanted, "names of dimensions are the interface's"
    assert_same_numbers(Onnx(), path, source)


@pytest.mark.parametrize("name", CASES)
def test_modules_are_exported_with_names_dynamic_dimensions_and_both_branches(name, source_of, tmp_path):
    source = source_of(name)
    path, result = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    _check_file(path, source, DEFAULT_OPSET)
    assert result.attempts[-1].error == ""


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 20, 21, 23, 26])
def test_a_classifier_is_delivered_at_the_opset_asked_for(opset, source_of, tmp_path):
    source = source_of("conv")
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, opset_version=opset)
    _check_file(path, source, opset)


@pytest.mark.parametrize(("name", "opset"), [("transformer", 11), ("layers", 13), ("lstm", 9), ("cond", 17)])
def test_old_opsets_are_reached_where_the_exporter_alone_does_not(name, opset, source_of, tmp_path):
    source = source_of(name)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, opset_version=opset)
    _check_file(path, source, opset)


@pytest.mark.parametrize(
    ("name", "opset"), [("conv", 20), ("lstm", 20), ("transformer", 13), ("dict", 18), ("cond", 20)]
)
def test_programs_are_exported(name, opset, source_of, tmp_path):
    source = source_of(name)
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    path, _ = convert(Onnx(), EXPORTED_PROGRAM, program, source, tmp_path, opset_version=opset)
    _check_file(path, source, opset)


def test_an_error_of_the_exporters_for_which_no_operator_is_to_blame_is_not_its_own_cause(tmp_path, monkeypatch):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    raised = RuntimeError("whatever")
    monkeypatch.setattr("registry_export_plugins._onnx.exporters.ProgramCall", lambda *_: SimpleNamespace(order=()))
    monkeypatch.setattr(torch.onnx, "export", Mock(side_effect=raised))
    with pytest.raises(RuntimeError) as told:
        program_to_onnx(program, ConversionRequest({}, NOTHING, {}, tmp_path))
    assert told.value is raised
    assert (raised.__cause__, raised.__context__) == (None, None)


def test_torchscript_is_exported_with_its_branches(source_of, tmp_path):
    source = source_of("python_if")
    scripted = torch.jit.script(source.load().wrapped)
    path, _ = convert(Onnx(), TORCHSCRIPT, scripted, source, tmp_path)
    _check_file(path, source, DEFAULT_OPSET)


def test_a_decision_on_data_is_exported_from_its_source_and_said_so(source_of, tmp_path):
    source = source_of("python_if")
    _, result = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    assert [bool(attempt.error) for attempt in result.attempts] == [True, False]
    assert any("decides on data" in note for note in result.notes)


def test_an_opset_out_of_reach_says_why_and_leaves_no_file(source_of, tmp_path):
    source = source_of("transformer")
    with pytest.raises(ConversionError, match="Opset 7 is out of reach"):
        convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, opset_version=7)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_an_opset_too_new_for_the_runtime_is_delivered_and_named_unrunnable(source_of, tmp_path):
    source = source_of("dict")
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, opset_version=HIGHEST_OPSET)
    assert Onnx().describe(path).opset_version == HIGHEST_OPSET
    sentences = r"onnxruntime \S+ cannot run this model: .*[^.]\. [A-Z]"
    with pytest.raises(RuntimeAbsentError, match=sentences), Onnx().open(path, source.interface):
        pass


def test_an_operator_without_an_onnx_form_is_named_with_the_remedy(tmp_path):
    source = make_source(models.Inverse(), (spec("x", "float32", "batch", 3, 3),), tmp_path)
    with pytest.raises(ConversionError, match=r"no ONNX form of aten\.linalg_inv.*torchscript") as caught:
        convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path / "made")
    assert "registry" not in str(caught.value)  # the exporter's advice to its own developers


def test_dimensions_that_share_a_name_are_one_dimension_in_the_file(source_of, tmp_path):
    source = source_of("transformer")
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    described = Onnx().describe(path).interface
    assert [s.shape for s in described.inputs] == [("batch", "seq"), ("batch", "seq")]
    assert described.outputs[1].shape == ("batch", "seq", 50)


def test_a_dimension_that_was_not_asked_for_stays_fixed(tmp_path):
    source = make_source(models.Recurrent(), (spec("sequence", "float32", "batch", 5, 4),), tmp_path)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    assert dynamic_axes(Onnx().describe(path).interface) == {"sequence": [0]}


def test_half_precision_is_kept_and_named(tmp_path):
    module = models.seeded(models.KeywordOnly()).half()
    source = make_source(module, (spec("x", "float16", "batch", 4),), tmp_path)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    assert Onnx().describe(path).precision == "fp16"
    assert_same_numbers(Onnx(), path, source, atol=1e-2)


def test_what_no_export_carries_is_said(tmp_path):
    source = make_source(models.WithCache(), CASES["dict"].inputs, tmp_path)
    _, result = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    assert any("cache (Cache)" in note for note in result.notes)


def test_the_same_model_gives_the_same_bytes_and_no_word_of_the_machine(tmp_path):
    made = []
    for attempt in ("a", "b"):
        case = CASES["conv"]
        source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path / attempt)
        path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path / attempt)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert b"models.py" not in made[0]


def test_optimizing_changes_the_graph_and_not_the_numbers(source_of, tmp_path):
    source = source_of("transformer")
    plain, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path / "plain", opset_version=17)
    small, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path / "small", opset_version=17, optimize=True)
    assert int(Onnx().describe(small).details["nodes"]) < int(Onnx().describe(plain).details["nodes"])
    _check_file(small, source, 17)


def _affine(opset: int = 13, dtype: int = TensorProto.FLOAT, **external: str) -> onnx.ModelProto:
    """Y = X @ W, with a dynamic batch; weights in a file of their own where `location` is given."""
    array = np.arange(6).reshape(2, 3).astype(helper.tensor_dtype_to_np_dtype(dtype))
    weight = onnx.numpy_helper.from_array(array, "W")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "affine",
        [helper.make_tensor_value_info("X", dtype, ["N", 2])],
        [helper.make_tensor_value_info("Y", dtype, ["N", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="by hand")
    model.ir_version = 8
    return model


def _source_file(folder: Path, model: onnx.ModelProto) -> Source:
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    inputs = {"X": np.ones((4, 2), np.float32)}
    expected = {"Y": inputs["X"] @ np.arange(6, dtype=np.float32).reshape(2, 3)}
    interface = Interface((spec("X", "float32", "batch", 2),), (spec("Y", "float32", "batch", 3),))
    return Source(path, NOTHING, interface, ((inputs, expected),))


def test_a_source_is_described_from_its_file(tmp_path):
    source = _source_file(tmp_path, _affine())
    described = Onnx().describe(source.path)
    assert described.opset_version == 13
    assert described.opset_imports == {"ai.onnx": 13}
    assert described.ir_version == 8
    assert described.details == {"producer": "by hand", "nodes": "1"}
    assert described.interface.inputs == (TensorSpec("X", "float32", ("N", 2)),)


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16"), (TensorProto.DOUBLE, "fp32")],
)
def test_precision_is_that_of_the_weights(dtype, precision, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_affine(dtype=dtype), str(path))
    assert Onnx().describe(path).precision == precision


def test_a_source_is_copied_byte_for_byte_when_nothing_is_asked(tmp_path):
    source = _source_file(tmp_path, _affine())
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made")
    assert path.read_bytes() == source.path.read_bytes()


@pytest.mark.parametrize("opset", [9, 17, 21])
def test_a_source_is_brought_to_another_opset(opset, tmp_path):
    source = _source_file(tmp_path, _affine())
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made", opset_version=opset)
    assert Onnx().describe(path).opset_version == opset
    assert_same_numbers(Onnx(), path, source)


def test_weights_that_an_old_file_lists_among_its_inputs_do_not_stop_its_optimizing(tmp_path):
    model = _affine(9)
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [2, 3]))
    source = _source_file(tmp_path, model)
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made", optimize=True)
    assert_same_numbers(Onnx(), path, source)


@pytest.mark.parametrize("opset", [13, 17])
def test_an_output_without_a_shape_is_given_its_rank(opset, tmp_path):
    model = _affine()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    source = _source_file(tmp_path, model)
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made", opset_version=opset)
    assert len(Onnx().describe(path).interface.outputs[0].shape) == 2
    assert_same_numbers(Onnx(), path, source)


def test_an_output_that_is_no_tensor_is_named_with_the_remedy(tmp_path):
    node = helper.make_node("SequenceConstruct", ["X", "X"], ["Y"])
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2])
    output = helper.make_value_info("Y", helper.make_sequence_type_proto(element))
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    source = _source_file(tmp_path, model)
    with pytest.raises(SourceError, match=r"Y.*not a tensor.*zipmap"), Onnx().open(source.path, source.interface):
        pass


def _with_external_data(folder: Path) -> Source:
    source = _source_file(folder, _affine())
    model = onnx.load(str(source.path))
    onnx.save(model, str(source.path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return source


def test_weights_in_another_file_are_copied_with_the_model(tmp_path):
    source = _with_external_data(tmp_path)
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made")
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "weights.bin"]
    assert_same_numbers(Onnx(), path, source)


def test_missing_weights_are_an_error_of_the_checkpoint(tmp_path):
    source = _with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert Onnx().describe(source.path).precision == "fp32"
    with pytest.raises(SourceError, match=r"weights\.bin"):
        convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path / "made")


def test_large_weights_are_laid_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export_plugins._onnx.opsets.LARGEST_IN_ONE_FILE", 1000)
    model = _affine()
    large = np.zeros((2, 3000), np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(large, "W"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3000
    interface = Interface((spec("X", "float32", "batch", 2),), (spec("Y", "float32", "batch", 3000),))
    settle(model, tmp_path / "model.onnx", interface, Wanted(opset=17, work=tmp_path / "work"))
    assert sorted(file.name for file in tmp_path.glob("*.*")) == ["model.onnx", "model.onnx.data"]
    with Onnx().open(tmp_path / "model.onnx", interface) as runner:
        assert runner.infer({"X": np.ones((1, 2), np.float32)})["Y"].shape == (1, 3000)


def test_a_converter_that_delivers_another_opset_is_not_believed(monkeypatch):
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda model, version: model)
    monkeypatch.setattr("onnxscript.version_converter.convert_version", lambda model, *_, **__: model)
    with pytest.raises(ConversionError, match="it returned opset 13"):
        to_opset(_affine(), 17)


def test_an_older_default_is_not_passed_off_as_the_newer_one():
    model = _affine()
    model.graph.node[0].output[0] = "scores"
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["Y"]))
    with pytest.raises(ConversionError, match="Softmax has another default of axis in opset 12"):
        to_opset(model, 12)


def test_names_that_inner_values_have_already_are_given_to_the_outputs(tmp_path):
    model = _affine()
    model.graph.node[0].output[0] = "wanted"
    model.graph.node.append(helper.make_node("Neg", ["wanted"], ["Y"]))
    interface = Interface((spec("x", "float32", "batch", 2),), (spec("wanted", "float32", "batch", 3),))
    settle(model, tmp_path / "model.onnx", interface, Wanted(work=tmp_path))
    with Onnx().open(tmp_path / "model.onnx", interface) as runner:
        outputs = runner.infer({"x": np.ones((1, 2), np.float32)})
    np.testing.assert_allclose(outputs["wanted"], [[-3, -5, -7]])


@pytest.mark.parametrize(
    ("inputs", "said"), [({}, "lacks X"), ({"X": np.ones((1, 2), np.float32), "Z": 1}, "no input Z")]
)
def test_missing_and_unknown_inputs_are_named(inputs, said, tmp_path):
    source = _source_file(tmp_path, _affine())
    with Onnx().open(source.path, NOTHING) as runner, pytest.raises(VerificationError, match=said):
        runner.infer(inputs)


def test_what_the_runtime_cannot_compute_is_told_without_places_in_its_own_source(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    two = numpy_helper.from_array(np.ones(2, np.float32), "two")
    graph = helper.make_graph([helper.make_node("Add", ["x", "two"], ["y"])], "g", [x], [y], [two])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with Onnx().open(tmp_path / "m.onnx", NOTHING) as runner, pytest.raises(VerificationError, match="Add") as caught:
        runner.infer({"x": np.ones(3, np.float32)})
    assert not re.search(r"onnxruntime_src|ONNXRuntimeError", str(caught.value))


def test_a_wrong_dtype_is_not_cast(tmp_path):
    source = _source_file(tmp_path, _affine())
    with Onnx().open(source.path, NOTHING) as runner, pytest.raises(VerificationError):
        runner.infer({"X": np.ones((1, 2), np.float64)})


def test_what_is_no_onnx_is_an_error_of_the_checkpoint(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="cannot be read as ONNX"):
        read(path)


def test_a_file_that_mlflow_logged_is_located(tmp_path):
    onnx.save(_affine(), str(tmp_path / "model.onnx"))
    assert Onnx().locate(tmp_path, {"onnx": {"data": "model.onnx"}}) == tmp_path / "model.onnx"
    assert Onnx().locate(tmp_path, {}) == tmp_path / "model.onnx"
    assert Onnx().locate(tmp_path, {"pytorch": {}}) is None


def test_opset_is_read_from_the_default_domain():
    model = _affine()
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 99))
    assert opset_of(model) == 13


class Steps(torch.nn.Module):
    """Goes through its sequence in a Python loop, as hand-written recurrent nets do."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.Linear(4, 3)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 3)
        for step in range(x.shape[1]):
            state = torch.tanh(self.cell(x[:, step]) + 0.5 * state)
        return state


def test_a_loop_over_a_sequence_is_compiled_where_a_trace_would_keep_its_length(tmp_path):
    source = make_source(models.seeded(Steps()).eval(), (spec("x", "float32", "batch", "seq", 4),), tmp_path)
    path, result = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    assert_same_numbers(Onnx(), path, source)
    assert result.notes == ("Compiled from source: a trace holds for one size of seq alone.",)


class Renaming(torch.nn.Module):
    def forward(self, first, second):
        return {"sum": first + second, "first": first * 3, "last": second - 1}


def test_an_output_called_as_an_input_is_another_value_and_keeps_its_place(tmp_path):
    declared = (spec("first", "float32", "batch", 3), spec("second", "float32", "batch", 3))
    source = make_source(Renaming(), declared, tmp_path)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path)
    inputs = {"first": np.full((2, 3), 2, np.float32), "second": np.full((2, 3), 5, np.float32)}
    with Onnx().open(path, source.interface) as runner:
        answers = runner.infer(inputs)
    assert list(answers) == ["sum", "first", "last"]
    assert [float(array[0, 0]) for array in answers.values()] == [7, 6, 4]
