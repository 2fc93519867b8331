from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ConversionRequest, ModelSetup
from registry_export_plugins._tensorflow.frozen import freeze
from registry_export_plugins._tensorflow.functions import retrace
from registry_export_plugins.keras import Keras, from_keras_model
from registry_export_plugins.saved_model import SavedModel, from_tf_function
from registry_export_plugins.tflite import TFLite
from registry_export_plugins.tflite import from_tf_function as function_to_tflite
from tests.unit.plugins.keras_support import reference

UNKNOWN = Interface(inputs=())


def _module(folder: Path, *names: str) -> Path:
    import tensorflow as tf

    module = tf.Module()
    specs = [tf.TensorSpec((None, 3), tf.float32, "x")]
    signatures = {
        name: tf.function(lambda x, factor=i + 1: {"y": factor * x}, input_signature=specs)
        for i, name in enumerate(names)
    }
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.mark.parametrize(
    ("names", "factor", "noted"),
    [(("zoom", "serving_default"), 2, False), (("only",), 1, False), (("zoom", "ask"), 2, True)],
)
def test_the_signature_that_is_exported_is_the_serving_one_else_the_first_and_is_told(
    tmp_path: Path, names: tuple[str, ...], factor: int, noted: bool
):
    path = _module(tmp_path / "models" / "7", *names)
    assert SavedModel().locate(tmp_path / "models", {}) == path
    with SavedModel().open(path, UNKNOWN) as runner:
        np.testing.assert_array_equal(runner.infer({"x": np.ones((2, 3), np.float32)})["y"], np.full((2, 3), factor))
    assert SavedModel().describe(path).interface.inputs == (TensorSpec("x", "float32", ("batch", 3)),)
    function = SavedModel().load(path, UNKNOWN)
    result = from_tf_function(function, tmp_path / "again", ConversionRequest({}, function.interface, {}, tmp_path))
    assert ["ask is exported" in note for note in result.notes] == [True] * noted


@pytest.mark.parametrize("name", ["mixed", "recurrent"])
def test_a_keras_file_is_written_and_computes_the_same(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    path = tmp_path / "model.keras"
    from_keras_model(Keras().load(made.path, UNKNOWN), path, made.request(tmp_path / "work"))
    with Keras().open(path, UNKNOWN) as runner:
        made.check(runner)
    assert Keras().describe(path).format_version


def test_a_models_own_classes_travel_beside_the_keras_file(tmp_path: Path):
    import keras

    class Halved(keras.layers.Layer):
        def call(self, x):
            return x / 2

    model = keras.Sequential([keras.Input((3,), name="x"), Halved(name="half")])
    path = tmp_path / "model.keras"
    result = from_keras_model(model, path, ConversionRequest({}, UNKNOWN, {}, tmp_path))
    assert "Halved" in result.notes[0]
    with Keras().open(path, UNKNOWN) as runner:
        (half,) = runner.infer({"x": np.ones((2, 3), np.float32)}).values()
    np.testing.assert_array_equal(half, np.full((2, 3), 0.5))
    with pytest.raises(SourceError, match="allow_pickle"):
        Keras().load(path, UNKNOWN, ModelSetup(allow_pickle=False))


def test_classes_of_the_models_code_paths_are_not_needed_where_the_keras_file_is_loaded(tmp_path: Path, monkeypatch):
    import keras

    (tmp_path / "own_layers").mkdir()
    (tmp_path / "own_layers" / "__init__.py").write_text("")
    (tmp_path / "own_layers" / "scaling.py").write_text("def halved(x):\n    return x / 2\n")
    (tmp_path / "own_layers" / "halving.py").write_text(
        "import keras\n"
        "from own_layers.scaling import halved\n"
        "class Halved(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return halved(x)\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        layer = importlib.import_module("own_layers.halving").Halved(name="half")
        model = keras.Sequential([keras.Input((3,), name="x"), layer])
        from_keras_model(model, tmp_path / "model.keras", ConversionRequest({}, UNKNOWN, {}, tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_layers"]:
        del sys.modules[name]
    with Keras().open(tmp_path / "model.keras", UNKNOWN) as runner:
        (half,) = runner.infer({"x": np.ones((2, 3), np.float32)}).values()
    np.testing.assert_array_equal(half, np.full((2, 3), 0.5))


def test_a_wrapper_makes_the_keras_model_that_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = reference("cnn", tmp_path)
    (tmp_path / "around_keras.py").write_text(
        "import keras\n"
        "def label(model):\n"
        "    return keras.Model(model.inputs, {'label': keras.ops.argmax(model.outputs[0], -1)})\n"
        "def wrong(model):\n"
        "    return 'model'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Keras().open(made.path, UNKNOWN, ModelSetup(wrapper="around_keras:label")) as runner:
        outputs = runner.infer(made.sample.inputs(5))
    np.testing.assert_array_equal(outputs["label"], made.expected[5]["scores"].argmax(-1))
    with pytest.raises(SourceError, match=r"str, not a keras\.Model"):
        Keras().load(made.path, UNKNOWN, ModelSetup(wrapper="around_keras:wrong"))


def _pooling(padding: int, kernel: int):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[padding] * 4)
    graph = helper.make_graph(
        [pool],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 3, 9, 9])],
        [value("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("padding", "kernel"), [(1, 3), (1, 2), (2, 4)])
def test_padding_of_a_maximum_is_right_below_zero_and_leaves_int8_its_range(tmp_path: Path, padding: int, kernel: int):
    import onnxruntime
    import tensorflow as tf

    from registry_export_plugins._onnx_to_tf.translator import translate_model

    model = _pooling(padding, kernel)
    function = translate_model(model)
    x = -1 - np.random.default_rng(0).uniform(size=(4, 3, 9, 9)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(function(tf.constant(x))[0], expected)
    kernels = tf.random.stateless_normal([3, 8], [0, 0])
    scored = retrace(
        type(function)(
            tf.function(lambda x: {"y": tf.einsum("bchw,cd->bdhw", function(x)[0], kernels)}).get_concrete_function(
                tf.TensorSpec([None, 3, 9, 9], tf.float32, "x")
            ),
            function.interface,
            ("x",),
            ("y",),
            function.owner,
        ),
        function.interface.inputs,
    )
    path = tmp_path / "model.tflite"
    options = {"precision": "int8", "quantization": "static"}
    request = ConversionRequest(options, scored.interface, {"x": x[:2]}, tmp_path, {"x": x})
    function_to_tflite(scored, path, request)
    exact = scored(tf.constant(x))[0].numpy()
    with TFLite().open(path, scored.interface) as runner:
        noise = runner.infer({"x": x})["y"] - exact
    assert 10 * np.log10((exact**2).sum() / (noise**2).sum()) > 20


def test_a_frozen_graph_ends_with_its_outputs_in_order(tmp_path: Path):
    import tensorflow as tf

    from registry_export_plugins._tensorflow.functions import trace

    inputs = (TensorSpec("b", "float32", ("batch",)), TensorSpec("a", "float32", ("batch",)))
    path = tmp_path / "model.pb"
    freeze(trace(lambda b, a: [b - a, b + a], inputs, ("z", "y"), None), path)
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    assert [node.name for node in graph.node][:2] == ["b", "a"]
    assert [node.name for node in graph.node][-2:] == ["z", "y"]
