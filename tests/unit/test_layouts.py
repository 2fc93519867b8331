"""What is written for inference servers, read back by the rules of protocol buffers and JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf import text_format

from registry_export.cli.layout import SERVERS as OFFERED
from registry_export.entities import FileRecord, Interface, ModelVersionRef, Status, TensorSpec
from registry_export.errors import ArtifactError, ConfigurationError
from registry_export.layouts import SERVERS, model_server, tfserving, triton
from registry_export.layouts.layout import _check_name
from registry_export.layouts.served import Served, zeros_for
from registry_export.layouts.tfrecord import _crc32c
from registry_export.manifest import Manifest

X = TensorSpec("x", "float32", ("batch", 3))
IDS = TensorSpec("ids", "int64", ("batch", "seq"))
Y = TensorSpec("y", "float32", ("batch", 5))
FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "tensorrt": "model.engine", "openvino": "model.xml"}


def served(folder, format_="onnx", inputs=(X,), outputs=(Y,), feed=None, rows=8, details=None, version="3"):
    files = folder / f"pulled-{format_}-{version}"
    names = [FILES[format_], "model.bin"] if format_ == "openvino" else [FILES[format_]]
    files.mkdir()
    for name in names:
        (files / name).write_bytes(b"model")
    manifest = Manifest(
        schema_version=1,
        model_version=ModelVersionRef("digits", version),
        variant=format_,
        format=format_,
        options={},
        filename=FILES[format_],
        status=Status.VERIFIED,
        files=tuple(FileRecord(name, "", 5) for name in names),
        sha256="",
        size_bytes=5 * len(names),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        details=details or {},
    )
    return Served("digits", version, manifest, files, feed or {}, rows, "/models")


def triton_config(tmp_path, *arguments, **rest):
    triton.write(served(tmp_path, *arguments, **rest), tmp_path, tmp_path)
    return text_format.Parse((tmp_path / "digits/config.pbtxt").read_text(), triton._MESSAGES["ModelConfig"]())


def test_the_command_offers_the_servers_that_there_are():
    assert tuple(SERVERS) == OFFERED


def test_triton_adds_the_batch_where_it_is_every_tensors_first_dimension(tmp_path):
    config = triton_config(tmp_path)
    assert (config.name, config.platform, config.max_batch_size) == ("digits", "onnxruntime_onnx", 8)
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[3], [5]]
    assert config.HasField("dynamic_batching")
    assert (tmp_path / "digits/3/model.onnx").read_bytes() == b"model"


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"outputs": (TensorSpec("y", "float32", (5,)),)},
        {"outputs": (TensorSpec("y", "float32", ("found", 5)),)},
        {"inputs": (TensorSpec("x", "float32", (1, 3)),)},
        {"format_": "openvino"},
        {"format_": "tensorrt", "details": {"builder": "TensorRT 10.9"}},
    ],
)
def test_triton_leaves_the_batch_alone_where_it_may_not_add_it(tmp_path, changes):
    config = triton_config(tmp_path, **changes)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert len(config.input[0].dims) == 2
    assert all(isinstance(size, int) for size in config.input[0].dims)


def test_triton_knows_open_sizes_as_minus_one_and_gives_a_scalar_a_dimension(tmp_path):
    specs = (IDS, TensorSpec("scale", "float16", ("batch",)))
    config = triton_config(tmp_path, inputs=specs)
    assert [list(tensor.dims) for tensor in config.input] == [[-1], [1]]
    assert [tensor.HasField("reshape") for tensor in config.input] == [False, True]
    text = (tmp_path / "digits/config.pbtxt").read_text()
    assert "data_type: TYPE_INT64" in text
    assert "data_type: TYPE_FP16" in text


def test_triton_knows_the_tensors_of_torchscript_by_position(tmp_path):
    feed = {"x": np.ones((1, 3), np.float32), "ids": np.arange(4).reshape(1, 4)}
    config = triton_config(tmp_path, "torchscript", inputs=(IDS, X), feed=feed)
    assert [tensor.name for tensor in config.input] == ["INPUT__0", "INPUT__1"]
    assert [tensor.name for tensor in config.output] == ["OUTPUT__0"]
    assert list(config.model_warmup[0].inputs["INPUT__0"].dims) == [4]


@pytest.mark.parametrize(("rows", "dims"), [(8, [3]), (0, [1, 3])])
def test_triton_warms_up_with_the_bytes_of_the_example(tmp_path, rows, dims):
    feed = {"x": np.array([[1, 2, 3]], np.float32)}
    (warmup,) = triton_config(tmp_path, feed=feed, rows=rows).model_warmup
    assert warmup.batch_size == 1  # Triton takes no 0
    assert list(warmup.inputs["x"].dims) == dims
    content = (tmp_path / "digits/warmup" / warmup.inputs["x"].input_data_file).read_bytes()
    np.testing.assert_array_equal(np.frombuffer(content, np.float32), [1, 2, 3])


def test_triton_is_given_no_strings_to_warm_up_with_as_numpy_keeps_them(tmp_path):
    text = TensorSpec("text", "string", ("batch", 1))
    config = triton_config(tmp_path, inputs=(text,), feed={"text": np.array([["hello"]])})
    assert not config.model_warmup


def test_triton_warms_up_with_the_right_bytes_whatever_the_inputs_are_called(tmp_path):
    names = ("a/b", "a_b", "../" * 90)
    feed = {name: np.full((1, 2), number, np.float32) for number, name in enumerate(names)}
    config = triton_config(tmp_path, inputs=[TensorSpec(name, "float32", ("batch", 2)) for name in names], feed=feed)
    for number, name in enumerate(names):
        file = config.model_warmup[0].inputs[name].input_data_file
        assert set(np.fromfile(tmp_path / "digits/warmup" / file, np.float32)) == {number}


@pytest.mark.parametrize(
    ("name", "server", "said"),
    [
        ("models.config", "tfserving", "models.config is the file from which tfserving reads"),
        ("Config.json", "openvino-model-server", "the file from which"),
        ("a/b", "triton", "'a/b' is no name"),
        ("..", "triton", "is no name"),
        ("notes.txt", "triton", "notes.txt is a file"),
    ],
)
def test_no_model_is_called_what_the_server_or_a_person_has_there(tmp_path, name, server, said):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigurationError, match=said):
        _check_name(name, SERVERS[server], tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"format_": "tensorrt", "details": {"builder": "TensorRT-RTX 1.7"}},
            "engines of TensorRT; .*TensorRT-RTX 1.7",
        ),
        ({"outputs": (TensorSpec("y", "float32", None),)}, "how many dimensions y has"),
        ({"outputs": (TensorSpec("y", "complex64", ("batch",)),)}, "no type for y, which is complex64"),
    ],
)
def test_triton_is_not_given_what_it_cannot_load(tmp_path, changes, said):
    with pytest.raises(ArtifactError, match=said):
        triton_config(tmp_path, **changes)


def test_zeros_stand_in_only_where_every_size_but_the_batch_is_known():
    assert zeros_for(Interface((X,)))["x"].shape == (1, 3)
    assert zeros_for(Interface((X, IDS))) == {}
    assert zeros_for(Interface((TensorSpec("x", "bfloat16", ("batch",)),))) == {}


def test_a_record_is_checked_by_the_castagnoli_polynomial():
    assert _crc32c(b"123456789") == 0xE3069283


def saved(folder, name, version):
    own = served(folder, version=version).manifest
    files = folder / f"files-{version}"
    (files / "model.savedmodel").mkdir(parents=True)
    (files / "model.savedmodel/saved_model.pb").write_bytes(b"graph")
    own = replace(own, format="saved_model", filename="model.savedmodel")
    return Served(name, version, own, files, {}, 8, "/srv/")


def test_tensorflow_serving_keeps_the_models_that_are_listed(tmp_path):
    for version, name in (("1", "digits"), ("2", "other"), ("3", "digits")):
        made = tmp_path / f"made-{version}"
        made.mkdir()
        tfserving.write(saved(tmp_path, name, version), made, tmp_path)
        (made / tfserving.CONFIG).rename(tmp_path / tfserving.CONFIG)
    listed = tfserving._read(tmp_path / tfserving.CONFIG).model_config_list.config
    assert [(entry.name, entry.base_path) for entry in listed] == [("digits", "/srv/digits"), ("other", "/srv/other")]
    assert (tmp_path / "made-3/digits/3/saved_model.pb").read_bytes() == b"graph"


def test_tensorflow_serving_refuses_to_lose_what_it_does_not_know(tmp_path):
    text = 'model_config_list { config { name: "a" model_version_policy { all {} } } }'
    (tmp_path / tfserving.CONFIG).write_text(text)
    with pytest.raises(ConfigurationError, match=r"models\.config holds more than names and paths"):
        tfserving._read(tmp_path / tfserving.CONFIG)


def test_the_model_server_keeps_models_and_settings(tmp_path):
    kept = {"config": {"name": "digits", "base_path": "/elsewhere", "batch_size": "16"}}
    other = {"config": {"name": "other", "base_path": "other"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_config_list": [kept, other], "monitoring": {"a": 1}}))
    model_server.write(served(tmp_path, "openvino"), tmp_path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["monitoring"] == {"a": 1}
    assert config["model_config_list"][1] == other
    assert config["model_config_list"][0] == {"config": {"name": "digits", "base_path": "digits", "batch_size": "16"}}
    assert sorted(path.name for path in (tmp_path / "digits/3").iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize("content", ["no json", "[]", '{"model_config_list": 1}', '{"model_config_list": [1]}', "{}"])
def test_what_is_no_configuration_of_the_model_server_is_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"config\.json is no"):
        model_server.write(served(tmp_path), tmp_path / "made", tmp_path)
