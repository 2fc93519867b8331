"""ONNX in fp16 and int8: valid, close to the source, and what it says it is."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry_export.entities import Interface
from registry_export.errors import ConversionError, UnsupportedModelError, VerificationError
from registry_export.format import ONNX_MODEL, TORCH_MODULE, ConversionRequest
from registry_export_plugins._onnx import quantizing
from registry_export_plugins._onnx.candidates import Judge, Wanted
from registry_export_plugins._onnx.opsets import graphs_of
from registry_export_plugins.onnx import DEFAULT_OPSET, Onnx
from tests import models
from tests.unit.plugins.torch_support import CASES, Source, draw, make_source, spec


def _export(name: str, folder: Path, **options: Any) -> tuple[Source, Path, Any]:
    case = CASES[name]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, folder)
    path, result = deliver(TORCH_MODULE, source.load(), source, folder, **options)
    return source, path, result


def deliver(kind: str, model: Any, source: Source, folder: Path, **options: Any) -> tuple[Path, Any]:
    """Convert with calibration rows, as the core does."""
    work, output = folder / "work", folder / "out" / "model.onnx"
    work.mkdir(parents=True)
    output.parent.mkdir()
    sizes = {"seq": 5, "height": 8, "width": 10}
    inputs = tuple(replace(item, shape=(24, *item.shape[1:])) for item in source.interface.inputs)
    rows = draw(inputs, sizes, 7)
    values = {option.name: option.default for option in Onnx.options} | options
    conversion = next(c for c in Onnx.conversions if c.kind == kind)
    request = ConversionRequest(values, source.interface, source.runs[0][0], work, calibration=rows)
    return output, conversion.function(model, output, request)


def _signal_to_noise(path: Path, source: Source) -> float:
    worst = np.inf
    with Onnx().open(path, source.interface) as runner:
        for inputs, expected in source.runs:
            for name, actual in runner.infer(inputs).items():
                assert actual.dtype == expected[name].dtype
                assert actual.shape == expected[name].shape
                noise = np.square(actual.astype(float) - expected[name]).sum()
                if noise:
                    worst = min(worst, 10 * np.log10(np.square(expected[name].astype(float)).sum() / noise))
    return worst


def _operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for graph in graphs_of(onnx.load(str(path))) for node in graph.node)


@pytest.mark.parametrize("name", ["conv", "residual", "lstm", "transformer", "layers", "python_if", "cond"])
def test_half_precision_keeps_names_dtypes_and_numbers(name, tmp_path):
    source, path, _ = _export(name, tmp_path, precision="fp16")
    described = Onnx().describe(path)
    assert described.precision == "fp16"
    assert described.opset_version == DEFAULT_OPSET
    assert described.interface.inputs == source.interface.inputs
    assert _signal_to_noise(path, source) > 45


@pytest.mark.parametrize("name", ["conv", pytest.param("transformer", marks=pytest.mark.slow)])
def test_weights_in_bf16_are_half_the_size_and_no_vector_is_rounded(name, tmp_path):
    source, path, result = _export(name, tmp_path, precision="bf16")
    described = Onnx().describe(path)
    assert (described.precision, described.opset_version) == ("bf16", DEFAULT_OPSET)
    assert described.interface.inputs == source.interface.inputs
    weights = [(len(t.dims), t.data_type) for t in onnx.load(str(path)).graph.initializer]
    assert {kind for rank, kind in weights if rank > 1} == {TensorProto.BFLOAT16}
    assert TensorProto.BFLOAT16 not in {kind for rank, kind in weights if rank < 2}
    assert result.notes == ("Weights are stored in bf16; the arithmetic is fp32.",)
    assert 40 < _signal_to_noise(path, source) < 70


def test_an_opset_without_bf16_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UnsupportedModelError, match="ONNX has bf16 from opset 13 on, and the file is to have 12"):
        _export("conv", tmp_path, precision="bf16", opset_version=12)


@pytest.mark.parametrize("quantization", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["conv", "transformer", "lstm"])
def test_int8_keeps_names_dtypes_and_most_of_the_signal(name, quantization, tmp_path):
    source, path, _ = _export(name, tmp_path, precision="int8", quantization=quantization)
    described = Onnx().describe(path)
    assert described.precision == "int8"
    assert described.opset_version == DEFAULT_OPSET
    assert described.interface.inputs == source.interface.inputs
    assert _signal_to_noise(path, source) > 15


@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_the_symmetric_layout_is_what_accelerators_take(name, tmp_path):
    source, path, _ = _export(name, tmp_path, precision="int8", qdq="symmetric")
    assert _signal_to_noise(path, source) > 15
    model = onnx.load(str(path))
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    points = [values[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert points
    assert {tensor.data_type for tensor in points} == {TensorProto.INT8}
    assert not any(numpy_helper.to_array(tensor).any() for tensor in points)
    assert TensorProto.INT32 not in {tensor.data_type for tensor in values.values()}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            assert [makers.get(name) for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]


def _file(folder: Path, nodes: list[Any], weights: dict[str, np.ndarray], opset: int = 17, **shapes: Any) -> Source:
    """A file with one input x and one output y, and its own answers on one set of inputs."""
    import onnxruntime

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes["x"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes["y"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = folder / "source" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, str(path))
    sizes = {"batch": 2, "height": 8, "width": 10}
    inputs = {"x": np.random.default_rng(0).normal(size=[sizes.get(s, s) for s in shapes["x"]]).astype(np.float32)}
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, inputs)
    interface = Interface((spec("x", "float32", *shapes["x"]),), (spec("y", "float32", *shapes["y"]),))
    return Source(path, interface, interface, ((inputs, {"y": expected}),))


def _generated(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(1).normal(size=shape) * scale).astype(np.float32)


def test_what_overflows_in_half_precision_is_kept_in_single(tmp_path):
    # The square of 300 is beyond 65504; its root is not.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Pow", ["a", "two"], ["b"]),
        helper.make_node("ReduceSum", ["b", "last"], ["c"]),
        helper.make_node("Sqrt", ["c"], ["y"]),
    ]
    weights = {"w": _generated(4, 4, scale=300), "two": np.float32(2), "last": np.array([1])}
    source = _file(tmp_path, nodes, weights, x=["batch", 4], y=["batch", 1])
    path, result = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="fp16")
    assert result.notes == ("Computed in fp32, because values on the samples are beyond fp16: b, c.",)
    assert _signal_to_noise(path, source) > 45
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    readers = [types[node.input[0]] for node in graph.node if node.op_type in ("ReduceSum", "Sqrt")]
    assert readers == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert _operators(path)["Cast"] == 2, "into MatMul and out of it"


def test_masks_of_the_lowest_number_do_not_become_nan(tmp_path):
    lowest = np.where(np.tri(6) > 0, 0, np.finfo(np.float32).min).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("Softmax", ["b"], ["y"]),
    ]
    source = _file(tmp_path, nodes, {"w": _generated(6, 6), "mask": lowest}, x=["batch", 6, 6], y=["batch", 6, 6])
    path, _ = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="fp16")
    assert _signal_to_noise(path, source) > 45


def test_resized_images_in_half_precision_are_valid(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="linear"),
        helper.make_node("Shape", ["b"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], keepdims=0),
        helper.make_node("Div", ["b", "largest"], ["y"]),
    ]
    weights = {"w": _generated(3, 3, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    source = _file(tmp_path, nodes, weights, x=["batch", 3, 8, 8], y=["batch", 3, 16, 16])
    path, _ = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="fp16")
    assert _signal_to_noise(path, source) > 45


def test_a_file_that_kills_the_runtime_is_not_taken(tmp_path, monkeypatch):
    source = _file(
        tmp_path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": _generated(4, 4)},
        x=["batch", 4],
        y=["batch", 4],
    )
    died = []

    def run(program, **rest):
        if "fp16-0" in Path(program[-1], "call.json").read_text():
            died.append(program)
            return subprocess.CompletedProcess(program, -11)
        return real(program, **rest)

    real = subprocess.run
    monkeypatch.setattr("registry_export_plugins._onnx.trial.subprocess.run", run)
    path, result = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="fp16")
    assert died
    assert "status -11" in result.attempts[-2].error
    assert _signal_to_noise(path, source) > 45


def test_int8_of_an_old_source_is_delivered_at_an_opset_that_has_it(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = _file(tmp_path, nodes, {"w": _generated(4, 4)}, opset=9, x=["batch", 4], y=["batch", 4])
    path, _ = deliver(ONNX_MODEL, source.path, source, tmp_path / "made", precision="int8")
    assert Onnx().describe(path).opset_version == 17
    assert _signal_to_noise(path, source) > 15
    with pytest.raises(ConversionError, match="needs opset 13 or higher; the model is opset 11"):
        deliver(ONNX_MODEL, source.path, source, tmp_path / "refused", precision="int8", opset_version=11)


def test_int8_respects_a_batch_that_the_model_has_fixed(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = _file(tmp_path, nodes, {"w": _generated(4, 4)}, x=[2, 4], y=[2, 4])
    path, _ = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="int8")
    assert _signal_to_noise(path, source) > 15


def test_nothing_to_quantize_is_said_and_leaves_no_file(tmp_path):
    source = _file(tmp_path, [helper.make_node("Erf", ["x"], ["y"])], {}, x=["batch", 4], y=["batch", 4])
    with pytest.raises(ConversionError, match="nothing that could be quantized"):
        deliver(ONNX_MODEL, source.path, source, tmp_path, precision="int8", quantization="dynamic")
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_static_int8_asks_for_samples():
    for conversion in Onnx.conversions:
        assert conversion.calibrates({"precision": "int8", "quantization": "static"})
        assert not conversion.calibrates({"precision": "int8", "quantization": "dynamic"})
        assert not conversion.calibrates({"precision": "fp16", "quantization": "static"})


def test_calibration_rows_come_a_few_at_a_time_and_all_of_them():
    rows = quantizing.Rows({"x": np.arange(20).reshape(10, 2)}, 4)
    assert [len(batch["x"]) for batch in rows] == [4, 4]
    assert [len(batch["x"]) for batch in quantizing.Rows({"x": np.zeros((3, 2))}, 4)] == [3]


def test_the_quantizer_leaves_nothing_in_the_working_folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    source = _file(tmp_path, nodes, {"w": _generated(4, 4)}, x=["batch", 4], y=["batch", 4])
    deliver(ONNX_MODEL, source.path, source, tmp_path, precision="int8")
    assert list(folder.iterdir()) == []


def test_a_transposed_weight_of_which_the_file_tells_the_shape_is_quantized(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["a"], transB=1), helper.make_node("Relu", ["a"], ["y"])]
    weights = {"w": _generated(5, 4), "b": _generated(5)}
    source = _file(tmp_path, nodes, weights, x=["batch", 4], y=["batch", 5])
    model = onnx.load(str(source.path))
    for name, shape in {"w": [5, 4], "b": [5], "a": ["batch", 5]}.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, str(source.path))
    path, _ = deliver(ONNX_MODEL, source.path, source, tmp_path, precision="int8", quantization="dynamic")
    assert _signal_to_noise(path, source) > 15


def test_a_candidate_of_another_shape_is_not_taken_for_a_perfect_one(tmp_path):
    def saved(name: str, operator: str, **attributes: Any) -> Path:
        node = helper.make_node(operator, ["x"], ["y"], **attributes)
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("x", "y")]
        graph = helper.make_graph([node], "g", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(tmp_path / name))
        return tmp_path / name

    wanted = Wanted(samples={"x": np.ones((2, 3), np.float32)}, work=tmp_path)
    judge = Judge(saved("original.onnx", "Identity"), wanted)
    with pytest.raises(VerificationError, match="another shape"):
        judge.signal_to_noise(saved("candidate.onnx", "Transpose"))
