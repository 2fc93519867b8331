from __future__ import annotations

from pathlib import Path

import pytest

from registry_export.entities import Interface
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export_plugins._tensorflow.functions import trace
from registry_export_plugins._tensorflow.to_onnx import convert_keras, convert_tf_function
from registry_export_plugins.keras import Keras
from tests.keras_models import SAMPLES
from tests.unit.plugins.keras_support import BATCHES, reference

UNKNOWN = Interface(inputs=())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_keras_model_gives_the_same_numbers_and_names(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    convert_keras(Keras().load(made.path, UNKNOWN), tmp_path / "model.onnx", 18, made.interface)
    made.check(_Session(tmp_path / "model.onnx", made.interface), BATCHES)


@pytest.mark.parametrize("opset", [9, 13, 22])
def test_the_opset_asked_for_is_the_opset_delivered(tmp_path: Path, opset: int):
    import onnx

    made = reference("mixed", tmp_path)
    path = tmp_path / "model.onnx"
    convert_keras(Keras().load(made.path, UNKNOWN), path, opset, made.interface)
    model = onnx.load(path)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert [value.name for value in model.graph.input] == ["numbers", "image", "tokens"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input] == ["batch"] * 3
    made.check(_Session(path, made.interface))


def test_an_opset_below_nine_is_refused_with_what_is_reachable(tmp_path: Path):
    made = reference("cnn", tmp_path)
    with pytest.raises(ConversionError, match="9 or higher"):
        convert_keras(Keras().load(made.path, UNKNOWN), tmp_path / "model.onnx", 8, made.interface)


def test_an_operator_that_onnx_has_not_is_named(tmp_path: Path):
    import tensorflow as tf

    from registry_export.entities import TensorSpec

    function = trace(lambda x: [tf.math.lgamma(x)], (TensorSpec("x", "float32", ("batch", 3)),), ("y",), None)
    for opset in (18, 20):
        with pytest.raises(UnsupportedModelError, match="Lgamma"):
            convert_tf_function(function, tmp_path / "model.onnx", opset, function.interface)


def _operators():
    import tensorflow as tf

    return {
        "Erfc": tf.math.erfc,
        "Log1p": lambda x: tf.math.log1p(tf.abs(x)),
        "Expm1": tf.math.expm1,
        "Xlogy": lambda x: tf.math.xlogy(x, tf.abs(x)),
        "Xdivy": lambda x: tf.math.xdivy(x, x),
        "MulNoNan": lambda x: tf.math.multiply_no_nan(tf.math.log(x), tf.nn.relu(x)),
        "Bucketize": lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 0.5, 2.0]),
    }


@pytest.mark.parametrize("opset", [9, 18])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", ["Erfc", "Log1p", "Expm1", "Xlogy", "Xdivy", "MulNoNan", "Bucketize"])
def test_an_operator_that_tf2onnx_has_not_is_written_in_others(tmp_path: Path, operator: str, dtype: str, opset: int):
    import numpy as np
    import onnxruntime

    from registry_export.entities import TensorSpec

    x = np.array([[-3, -1, 0], [0.25, 0.5, 7]], dtype)
    function = trace(lambda x: [_operators()[operator](x)], (TensorSpec("x", dtype, ("batch", 3)),), ("y",), None)
    assert f'op: "{operator}"' in str(function.function.graph.as_graph_def())
    convert_tf_function(function, tmp_path / "model.onnx", opset, function.interface)
    if (operator, dtype) == ("Erfc", "float64"):  # ONNX Runtime has no Erf of doubles
        return
    (actual,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})
    expected = _operators()[operator](x).numpy()
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_argmax_needs_no_bit_arithmetic(tmp_path: Path):
    import keras
    import numpy as np

    inputs = keras.Input((4,), name="x")
    path = tmp_path / "model.keras"
    keras.Model(inputs, keras.ops.argmax(inputs, -1)).save(path)
    convert_keras(Keras().load(path, UNKNOWN), tmp_path / "model.onnx", 18, UNKNOWN)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert session.run(None, {"x": rows})[0].tolist() == rows.argmax(-1).tolist()


class _Session:
    """The least that `Reference.check` needs of a runner."""

    def __init__(self, path: Path, interface: Interface) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path)
        self.interface = interface
        self.runtime = "onnxruntime"

    def infer(self, inputs):
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(inputs)), strict=True))
