"""ONNX files: simplified graphs, weights beside the file, models above the limit of one file."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from registry_export.entities import Interface
from registry_export.errors import SourceError, VerificationError
from registry_export.format import ONNX_MODEL, TORCH_MODULE
from registry_export_plugins._onnx.runner import open_session
from registry_export_plugins.onnx import Onnx
from tests import models
from tests.unit.plugins.torch_support import CASES, Source, assert_same_numbers, convert, make_source, spec

IMAGES = {"x": ["batch", 3, 8, 8]}
_RANDOM = np.random.default_rng(0)


def _weights(*shape: int) -> np.ndarray:
    return _RANDOM.normal(size=shape).astype(np.float32)


def _statistics(name: str, channels: int) -> dict[str, np.ndarray]:
    values = (_weights(channels) for _ in range(3))
    scale, bias, mean = values
    return {f"{name}_s": scale, f"{name}_b": bias, f"{name}_m": mean, f"{name}_v": np.abs(_weights(channels)) + 0.5}


def _source(folder: Path, nodes: list[Any], weights: dict[str, np.ndarray], y: list[int | str]) -> Source:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGES["x"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    inputs = {"x": _weights(2, 3, 8, 8)}
    (expected,) = onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, inputs)
    interface = Interface((spec("x", "float32", *IMAGES["x"]),), (spec("y", "float32", *y),))
    return Source(folder / "model.onnx", interface, interface, ((inputs, {"y": expected}),))


def _optimized(source: Source, folder: Path) -> Counter[str]:
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, folder, optimize=True)
    assert_same_numbers(Onnx(), path, source)
    assert Onnx().describe(path).opset_version == 17
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def test_optimizing_takes_dead_ends_away(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Exp", ["x"], ["unused"]),
        helper.make_node("Neg", ["unused"], ["unused_too"]),
    ]
    source = _source(tmp_path / "source", nodes, {"nobody": _weights(3)}, IMAGES["x"])
    assert _optimized(source, tmp_path) == {"Relu": 1}
    assert not onnx.load(str(tmp_path / "out" / "model.onnx")).graph.initializer


def test_optimizing_takes_identities_and_idle_dropouts_away(tmp_path):
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Dropout", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    assert _optimized(_source(tmp_path / "source", nodes, {}, IMAGES["x"]), tmp_path) == {"Relu": 1, "Neg": 1}


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_optimizing_folds_batch_norms_and_leaves_no_arithmetic_behind(operator, tmp_path):
    shape = (4, 3, 3, 3) if operator == "Conv" else (3, 4, 3, 3)
    nodes = [
        helper.make_node(operator, ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "n_s", "n_b", "n_m", "n_v"], ["y"]),
    ]
    weights = {"w": _weights(*shape)} | _statistics("n", 4)
    source = _source(tmp_path / "source", nodes, weights, ["batch", 4, 8, 8])
    assert _optimized(source, tmp_path) == {operator: 1}


def test_a_network_of_pytorch_comes_out_without_batch_norms(tmp_path):
    case = CASES["residual"]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, optimize=True)
    operators = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    assert operators == {"Conv": 2, "Relu": 2, "Add": 1}
    assert_same_numbers(Onnx(), path, source)


def _conv(folder: Path) -> Source:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Identity", ["a"], ["same"]),
        helper.make_node("Reshape", ["same", "shape"], ["y"]),
    ]
    weights = {"w": _weights(4, 3, 3, 3), "shape": np.array([0, 256])}
    return _source(folder, nodes, weights, ["batch", 256])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_lie_beside_the_file_when_that_is_asked_for(precision, tmp_path):
    source = _conv(tmp_path / "source")
    path, _ = convert(
        Onnx(), ONNX_MODEL, source.path, source, tmp_path, external_data=True, opset_version=18, precision=precision
    )
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (path.parent / "model.onnx.data").stat().st_size >= 4 * 27 * (2 if precision == "fp16" else 4)
    assert_same_numbers(Onnx(), path, source, atol=1e-2)


@pytest.fixture
def _small_limit(monkeypatch):
    """Let 200 bytes be too large for one file, so that a small model takes the way of one of several gigabytes."""
    monkeypatch.setattr("registry_export_plugins._onnx.opsets.LARGEST_IN_ONE_FILE", 200)
    monkeypatch.setattr("registry_export_plugins._onnx.files._LARGEST_IN_PART", 100)


@pytest.mark.usefixtures("_small_limit")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset_version": 20},
        {"optimize": True},
        {"precision": "fp16"},
        {"precision": "int8", "quantization": "dynamic"},
        {"external_data": True},
    ],
)
def test_what_is_too_large_for_one_file_is_never_put_into_one(options, tmp_path, monkeypatch):
    source = _conv(tmp_path / "inner")
    large = tmp_path / "source" / "model.onnx"
    large.parent.mkdir()
    onnx.save(onnx.load(str(source.path)), str(large), save_as_external_data=True, location="w.bin", size_threshold=100)
    path, _ = convert(Onnx(), ONNX_MODEL, large, source, tmp_path, **options)
    if options.get("precision") != "int8":  # a quarter of the weights fits
        assert len(list(path.parent.iterdir())) == 2
    assert_same_numbers(Onnx(), path, source, atol=0.3 if "precision" in options else 1e-5)
    operators = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    assert ("Identity" not in operators) == bool(options.get("optimize"))


@pytest.mark.usefixtures("_small_limit")
@pytest.mark.parametrize("opset", [17, 20])
def test_large_networks_of_pytorch_are_exported(opset, tmp_path):
    case = CASES["conv"]
    source = make_source(models.seeded(case.make()).eval(), case.inputs, tmp_path)
    path, _ = convert(Onnx(), TORCH_MODULE, source.load(), source, tmp_path, opset_version=opset)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert Onnx().describe(path).opset_version == opset
    assert_same_numbers(Onnx(), path, source)


def _table(folder: Path, rows: int) -> Source:
    """Rows of a table of which all but the first are holes in the file: large, and quickly made."""
    folder.mkdir()
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, 1000])
    table.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "table.bin", "offset": "0", "length": str(rows * 4000)}.items():
        table.external_data.add(key=key, value=value)
    with (folder / "table.bin").open("wb") as file:
        file.write(np.arange(5000, dtype=np.float32).tobytes())
        file.truncate(rows * 4000)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        [table],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    interface = Interface((spec("ids", "int64", "n"),), (spec("y", "float32", "n", 1000),))
    expected = np.arange(5000, dtype=np.float32).reshape(5, 1000)[[1, 4]]
    return Source(folder / "model.onnx", interface, interface, (({"ids": np.array([1, 4])}, {"y": expected}),))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"opset_version": 20, "optimize": True}])
def test_a_model_above_two_gigabytes_is_delivered(options, tmp_path):
    source = _table(tmp_path / "source", 600_000)
    path, _ = convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path, **options)
    assert (path.parent / "table.bin").stat().st_size == 2_400_000_000
    assert Onnx().describe(path).opset_version == options.get("opset_version", 17)
    assert_same_numbers(Onnx(), path, source)
    shutil.rmtree(tmp_path)


def test_the_flavor_of_mlflow_with_weights_beside_the_file_is_located(tmp_path):
    import mlflow

    model = onnx.load(str(_conv(tmp_path / "source").path))
    mlflow.onnx.save_model(model, tmp_path / "logged", save_as_external_data=True)
    flavors = mlflow.models.Model.load(str(tmp_path / "logged")).flavors
    path = Onnx().locate(tmp_path / "logged", flavors)
    with Onnx().open(path, Onnx().describe(path).interface) as runner:
        assert runner.infer({"x": _weights(2, 3, 8, 8)})["y"].shape == (2, 256)


def test_weights_outside_of_the_models_folder_are_refused(tmp_path):
    source = _table(tmp_path / "source", 10)
    model = onnx.load(str(source.path), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../elsewhere.bin"
    onnx.save(model, str(source.path))
    with pytest.raises(SourceError, match="not beside it"):
        convert(Onnx(), ONNX_MODEL, source.path, source, tmp_path)


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (lambda path: (path.parent / "w.bin").unlink(), "Log the model with all of its files"),
        (lambda path: (path.parent / "w.bin").write_bytes(b"cut"), "Log the model with all of its files, whole"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "Log the file again"),
    ],
    ids=["lost", "cut", "torn"],
)
def test_what_is_wrong_with_a_file_comes_with_what_to_do(damage, advice, tmp_path):
    path = tmp_path / "beside" / "net.onnx"
    path.parent.mkdir()
    whole = onnx.load(str(_conv(tmp_path / "source").path))
    onnx.save(whole, str(path), save_as_external_data=True, location="w.bin", size_threshold=100)
    damage(path)
    with pytest.raises(VerificationError, match=advice), Onnx().open(path, Interface(inputs=())):
        pass


def test_a_model_that_is_half_precision_in_part_is_judged_as_one(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["single"]),
        helper.make_node("Cast", ["single"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["narrow", "half"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = {"wide": np.ones((4, 8), np.float32), "half": np.ones((8, 2), np.float16)}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "mixed", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "model.onnx")
    assert Onnx().describe(tmp_path / "model.onnx").precision == "fp16"


@pytest.mark.parametrize(("policy", "spins"), [("PASSIVE", False), ("ACTIVE", True)])
def test_threads_of_onnx_runtime_wait_as_those_of_openmp_do(policy, spins, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    options = open_session(_conv(tmp_path / "source").path).get_session_options()
    try:
        said = options.get_session_config_entry("session.intra_op.allow_spinning")
    except RuntimeError:  # it was not set
        said = "1"
    assert said == ("1" if spins else "0")
