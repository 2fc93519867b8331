"""MXNet's models, read without MXNet, against what MXNet 1.9.1 computed (`tests/data/mxnet/record.py`)."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ChildError, SourceError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export.inference import Origin, RungFiles
from registry_export.isolation import ChildPool, Limits, environments
from registry_export.isolation.environments import python_of
from registry_export.replay import ReplayRequest
from registry_export.tensors import read_tensors, write_tensors
from registry_export_plugins._mxnet.files import parameters_of, read_parameters, read_symbol
from registry_export_plugins._mxnet.signature import output_name
from registry_export_plugins._mxnet.translate import OPERATORS, to_onnx
from registry_export_plugins.mxnet import MXNet
from registry_export_plugins.onnx import Onnx

RECORDED = Path(__file__).parents[2] / "data" / "mxnet"
NETS = sorted(path.stem for path in RECORDED.glob("*.npz"))
FIXED = ("reductions", "stateful_lstm")
"""Nets whose inputs do not agree on what the first axis is."""
NOTHING_KNOWN = Interface(())


def recorded(name):
    arrays = np.load(RECORDED / f"{name}.npz")
    inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in:")}
    return inputs, {key[4:]: arrays[key] for key in arrays if key.startswith("out:")}


def symbol(name):
    return RECORDED / f"{name}-symbol.json"


def interface(inputs, first="batch"):
    return Interface(tuple(TensorSpec(k, v.dtype.name, (first or v.shape[0], *v.shape[1:])) for k, v in inputs.items()))


def infer(path, inputs, known):
    with MXNet().open(path, known) as runner:
        return runner.infer(inputs)


def assert_close(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        assert actual[name].dtype == array.dtype, name
        bound = 2e-3 if array.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(actual[name], array, rtol=bound, atol=bound, err_msg=name)


@pytest.mark.parametrize("name", NETS)
def test_every_operator_computes_what_mxnet_computed(name):
    inputs, outputs = recorded(name)
    assert_close(infer(symbol(name), inputs, interface(inputs, first=None)), outputs)


@pytest.mark.parametrize("name", [name for name in NETS if name not in FIXED])
def test_a_size_that_varies_changes_nothing(name):
    inputs, outputs = recorded(name)
    assert_close(infer(symbol(name), inputs, interface(inputs)), outputs)


@pytest.mark.parametrize("name", ["residual", "convolutions", "attention", "double"])
def test_another_batch_gives_each_row_its_own_answer(name):
    inputs, outputs = recorded(name)
    longer = {key: np.concatenate([array, array[:1]]) for key, array in inputs.items()}
    expected = {key: np.concatenate([array, array[:1]]) for key, array in outputs.items()}
    assert_close(infer(symbol(name), longer, interface(inputs)), expected)


def test_the_nets_cover_the_table():
    used = {node.op for name in NETS for node in read_symbol(symbol(name)).nodes}
    families = {"Convolution", "Deconvolution", "RNN", "LayerNorm", "Embedding", "topk", "pick", "Pad", "SwapAxis"}
    assert families <= used <= {*OPERATORS, "null"}
    assert len(used) > 150


def test_what_the_first_layer_tells_replaces_a_signature():
    inputs, outputs = recorded("residual")
    assert_close(infer(symbol("residual"), inputs, NOTHING_KNOWN), outputs)


def test_a_signature_with_other_names_keeps_them():
    inputs, outputs = recorded("residual")
    known = Interface((TensorSpec("pixels", "float32", ("batch", 3, 12, 12)),))
    with MXNet().open(symbol("residual"), known) as runner:
        assert runner.interface.inputs == known.inputs
        assert "translation to ONNX made without MXNet" in runner.runtime
        assert "MXNet cannot be run here" in runner.stand_in
        assert_close(runner.infer({"pixels": inputs["data"]}), outputs)


def test_no_shape_anywhere_is_said_with_a_remedy():
    with pytest.raises(SourceError, match="Nothing tells the shape of the model's input data") as caught:
        to_onnx(symbol("shapes"), NOTHING_KNOWN)
    assert "signature" in caught.value.remedy
    assert "mx.sym.var('data', shape=...)" in caught.value.remedy


def test_the_label_of_a_loss_is_no_input():
    model = to_onnx(symbol("convolutions"), NOTHING_KNOWN)
    assert [value.name for value in model.graph.input] == ["data"]


def test_what_is_written_is_a_valid_onnx_file_and_goes_on_as_one(tmp_path):
    inputs, outputs = recorded("residual")
    path = MXNet().load(symbol("residual"), interface(inputs))
    onnx.checker.check_model(str(path), full_check=True)
    with Onnx().open(path, NOTHING_KNOWN) as runner:
        wanted = runner.interface
    (tmp_path / "out").mkdir()
    options = {option.name: option.default for option in Onnx.options} | {"opset_version": 18}
    request = ConversionRequest(options, wanted, inputs, tmp_path)
    edge = next(edge for edge in Onnx.conversions if edge.kind == "onnx_model")
    edge.function(path, tmp_path / "out" / "model.onnx", request)
    with Onnx().open(tmp_path / "out" / "model.onnx", wanted) as runner:
        assert_close(runner.infer(inputs), outputs)


def test_describe_reads_the_version_and_the_inputs():
    described = MXNet().describe(symbol("residual"))
    assert described.format_version == "1.9.1"
    assert described.precision == "fp32"
    assert [spec.name for spec in described.interface.inputs] == ["data"]
    assert [spec.name for spec in described.interface.outputs] == [
        output_name(read_symbol(symbol("residual")).nodes[-1], 0)
    ]


def _copied(tmp_path, name, change=None):
    for file in (f"{name}-symbol.json", f"{name}-0000.params"):
        shutil.copy(RECORDED / file, tmp_path)
    path = tmp_path / f"{name}-symbol.json"
    if change is not None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
    return path


def test_an_operator_without_translation_is_named_with_its_node(tmp_path):
    def change(document):
        document["nodes"][-1] |= {"op": "_contrib_box_nms", "name": "boxes"}

    with pytest.raises(UnsupportedModelError, match=r"MXNet's operator _contrib_box_nms \(node boxes\)"):
        to_onnx(_copied(tmp_path, "residual", change), NOTHING_KNOWN)


def test_a_variant_without_translation_is_named_too(tmp_path):
    def change(document):
        node = next(node for node in document["nodes"] if node["op"] == "Convolution")
        node["attrs"]["layout"] = "NHWC"

    with pytest.raises(UnsupportedModelError, match=r"Convolution \(node .*conv0_fwd\) in the layout NHWC"):
        to_onnx(_copied(tmp_path, "residual", change), NOTHING_KNOWN)


def test_attributes_as_mxnet_wrote_them_before_1_0_are_read(tmp_path):
    def change(document):
        for node in document["nodes"]:
            node["param"] = node.pop("attrs", {})
            node["inputs"] = [entry[:2] for entry in node["inputs"]]
        document["heads"] = [head[:2] for head in document["heads"]]

    inputs, outputs = recorded("residual")
    assert_close(infer(_copied(tmp_path, "residual", change), inputs, interface(inputs)), outputs)


@pytest.mark.parametrize(
    ("word", "written"), [("False", "false"), ("True", "true"), ("(3, 3)", "(3L, 3L)"), ("(2, 1)", "(2L,1L)")]
)
def test_attributes_as_other_languages_and_python_2_wrote_them_are_read(tmp_path, word, written):
    def change(document):
        for node in document["nodes"]:
            node["attrs"] = {key: written if text == word else text for key, text in node.get("attrs", {}).items()}

    inputs, outputs = recorded("convolutions")
    path = _copied(tmp_path, "convolutions", change)
    assert written in path.read_text()
    assert_close(infer(path, inputs, interface(inputs)), outputs)


def test_statistics_that_mxnet_left_out_of_the_symbol_before_0_9_are_found(tmp_path):
    def change(document):
        nodes = document["nodes"]
        kept = [number for number, node in enumerate(nodes) if "_moving_" not in node["name"]]
        for node in nodes:
            node["inputs"] = [[kept.index(entry[0]), entry[1]] for entry in node["inputs"] if entry[0] in kept]
        document["nodes"] = [nodes[number] for number in kept]
        document["heads"] = [[kept.index(head[0]), head[1]] for head in document["heads"]]
        del document["node_row_ptr"], document["attrs"]

    inputs, outputs = recorded("convolutions")
    path = _copied(tmp_path, "convolutions", change)
    assert "moving" not in "".join(node["name"] for node in json.loads(path.read_text())["nodes"])
    assert_close(infer(path, inputs, interface(inputs)), outputs)


@pytest.mark.parametrize(("axis", "made_by"), [("0", 43), ("1", 0)])
def test_the_last_step_is_that_of_each_rows_length(tmp_path, axis, made_by):
    def change(document):
        last = next(node for node in document["nodes"] if node["op"] == "SequenceLast")
        last["attrs"] = {"use_sequence_length": "True", "axis": axis}
        last["inputs"] = [[made_by, 0, 0], [44, 0, 0]]  # the data, with the steps first or second; index + 1

    inputs, _ = recorded("reductions")
    path = _copied(tmp_path, "reductions", change)
    made = infer(path, inputs, interface(inputs))["sequencelast0_output"]
    places = inputs["index"].astype(int)
    np.testing.assert_array_equal(made, inputs["data"][np.arange(len(places)), places])


def test_parameters_are_those_of_the_last_epoch_of_the_same_model(tmp_path):
    path = _copied(tmp_path, "residual")
    for name in ("residual-0012.params", "residual-0003.params", "other-0099.params"):
        shutil.copy(RECORDED / "residual-0000.params", tmp_path / name)
    assert parameters_of(path).name == "residual-0012.params"


def test_old_parameter_files_are_read(tmp_path):
    """Before 0.12 an array began with its rank, and its sizes had 32 bits."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    data = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<III", 2, 2, 3) + struct.pack("<iii", 1, 0, 0)
    data += array.tobytes() + struct.pack("<QQ", 1, 5) + b"arg:w"
    (tmp_path / "old.params").write_bytes(data)
    np.testing.assert_array_equal(read_parameters(tmp_path / "old.params")["w"], array)


@pytest.mark.parametrize("cut", [0, 4, 20, 100, -1])
def test_a_torn_file_of_parameters_is_refused(tmp_path, cut):
    data = (RECORDED / "residual-0000.params").read_bytes()
    (tmp_path / "torn.params").write_bytes(data[:cut])
    with pytest.raises(SourceError, match=r"torn.params"):
        read_parameters(tmp_path / "torn.params")


@pytest.mark.parametrize("content", ["", "[]", '{"nodes": []}', '{"nodes": [{"op": "null"}], "heads": []}'])
def test_what_is_no_symbol_is_refused(tmp_path, content):
    (tmp_path / "model-symbol.json").write_text(content)
    with pytest.raises(SourceError, match="cannot be read as an MXNet symbol"):
        read_symbol(tmp_path / "model-symbol.json")


def test_a_plain_folder_and_the_old_gluon_flavor_are_recognised(tmp_path):
    plain, flavored = tmp_path / "plain", tmp_path / "flavored"
    plain.mkdir()
    (flavored / "data").mkdir(parents=True)
    path = _copied(plain, "residual")
    inner = _copied(flavored / "data", "residual")
    assert MXNet().locate(plain, {}) == path
    assert MXNet().locate(flavored, {"gluon": {"mxnet_version": "1.9.1"}, "python_function": {}}) == inner
    assert MXNet().locate(plain, {"pytorch": {}}) is None
    (plain / "residual-0000.params").unlink()
    assert MXNet().locate(plain, {}) is None


def test_declared_shapes_serve_where_there_is_no_signature(tmp_path):
    def change(document):
        document["nodes"][0]["attrs"] = {"__shape__": "(2, 4, 6, 5)", "__dtype__": "0"}

    inputs, outputs = recorded("shapes")
    path = _copied(tmp_path, "shapes", change)
    model = to_onnx(path, NOTHING_KNOWN)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 4, 6, 5]
    assert_close(infer(path, inputs, NOTHING_KNOWN), outputs)


def test_an_input_without_a_shape_in_the_signature_is_completed():
    inputs, outputs = recorded("residual")
    known = interface(inputs)
    known = replace(known, inputs=tuple(replace(spec, shape=None) for spec in known.inputs))
    assert_close(infer(symbol("residual"), inputs, known), outputs)


def _replayed(pool, name, work):
    """Run a recorded net as the core runs a source: by the format's own toolchain."""
    inputs, outputs = recorded(name)
    work.mkdir()
    write_tensors(work / "inputs-0", inputs)
    origin = Origin("mxnet", str(symbol(name)), interface(inputs, first=None))
    request = ReplayRequest(origin, (RungFiles("example", "", str(work / "inputs-0"), ""),), str(work))
    arguments = msgspec.to_builtins(request)
    outcome = pool.call(MXNet.toolchain, "registry_export.replay:replay", arguments, work, reads=origin.reads)
    (rung,) = outcome.value["rungs"]
    assert not rung["error"]
    return outcome.value["runtime"], read_tensors(Path(rung["actual"])), outputs


def test_the_sources_answers_are_those_of_mxnet_itself(tmp_path):
    try:
        python_of(MXNet.toolchain.python)
    except ChildError as error:
        pytest.skip(f"the environment of MXNet cannot be created here: {error}")
    with ChildPool(Limits(timeout_s=120)) as pool:
        for name in ("residual", "convolutions", "attention", "lstm", "gru", "stateful_lstm", "half", "double"):
            runtime, actual, expected = _replayed(pool, name, tmp_path / name)
            assert runtime == "mxnet 1.9.1"
            assert_close(actual, expected)


def test_without_its_environment_the_translation_answers_and_the_report_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", "")
    with ChildPool(Limits(timeout_s=120)) as pool:
        runtime, actual, expected = _replayed(pool, "residual", tmp_path / "work")
    assert "on a translation to ONNX made without MXNet" in runtime
    assert "onnx is used in place of mxnet: uv, which creates environments, is not installed." in caplog.text
    assert_close(actual, expected)
