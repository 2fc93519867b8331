from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import UnsupportedModelError, VerificationError
from registry_export.format import ConversionRequest
from registry_export_plugins._tensorflow.functions import trace
from registry_export_plugins._tensorflow.lite import _explained
from registry_export_plugins.keras import Keras
from registry_export_plugins.saved_model import SavedModel, from_keras_model
from registry_export_plugins.tflite import TFLite
from registry_export_plugins.tflite import from_keras_model as keras_to_tflite
from registry_export_plugins.tflite import from_tf_function as function_to_tflite
from tests.keras_models import SAMPLES
from tests.unit.plugins.keras_support import reference

UNKNOWN = Interface(inputs=())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_keras_model_gives_the_same_numbers_at_every_batch(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    path = tmp_path / "model.tflite"
    keras_to_tflite(Keras().load(made.path, UNKNOWN), path, made.request(tmp_path / "work"))
    with TFLite().open(path, made.interface) as runner:
        made.check(runner)
    assert "Flex" not in TFLite().describe(path).details["operators"]


def test_a_recurrent_saved_model_keeps_its_open_batch_and_length(tmp_path: Path):
    made = reference("recurrent", tmp_path)
    from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "saved", made.request(tmp_path / "first"))
    path = tmp_path / "model.tflite"
    function = SavedModel().load(tmp_path / "saved", made.interface)
    result = function_to_tflite(function, path, made.request(tmp_path / "second"))
    assert [bool(attempt.error) for attempt in result.attempts] == [True, False]
    assert TFLite().describe(path).interface.inputs == (TensorSpec("tokens", "int32", ("batch", "tokens_1")),)
    longer = {"tokens": np.arange(1, 19, dtype=np.int32).reshape(2, 9)}
    with TFLite().open(path, made.interface) as runner, Keras().open(made.path, UNKNOWN) as source:
        made.check(runner)
        np.testing.assert_allclose(runner.infer(longer)["scores"], source.infer(longer)["scores"], atol=1e-5)


def test_a_fixed_size_refuses_other_sizes_instead_of_answering_for_the_old_one(tmp_path: Path):
    path = _converted(tmp_path, lambda x: [2 * x], (1, 3))
    with TFLite().open(path, UNKNOWN) as runner:
        assert runner.interface.inputs[0].shape == (1, 3)
        with pytest.raises(VerificationError, match="shape"):
            runner.infer({"x": np.ones((2, 3), np.float32)})


def test_a_function_that_draws_at_random_is_converted_and_left_to_the_verification(tmp_path: Path):
    import tensorflow as tf

    assert _converted(tmp_path, lambda x: [x + tf.random.normal(tf.shape(x))], ("batch", 3)).is_file()


def test_a_function_without_a_kernel_is_refused_by_the_operators_name(tmp_path: Path):
    import tensorflow as tf

    with pytest.raises(UnsupportedModelError, match="Igamma"):
        _converted(tmp_path, lambda x: [tf.math.igamma(x, x)], ("batch", 3))


def test_the_converters_reason_is_told_without_the_places_in_its_graph():
    told = _explained(
        '<unknown>:0: error: loc(callsite(fused["Squeeze:", "Call/Squeeze_1@__f_1"] at fused["Call:", "Call"]))): '
        "'tfl.squeeze' op attribute 'squeeze_dims' failed\n<unknown>:0: note: see more\n"
    )
    assert (
        told.message
        == "The TensorFlow Lite converter refused the model: 'tfl.squeeze' op attribute 'squeeze_dims' failed"
    )


def test_double_precision_is_refused_by_that_name(tmp_path: Path):
    with pytest.raises(UnsupportedModelError, match=r"float64.*float32"):
        _converted(tmp_path, lambda x: [x @ x], (3, 3), "float64")


def test_an_integer_that_does_not_fit_is_refused(tmp_path: Path):
    path = _converted(tmp_path, lambda x: [x + 1], ("batch",), "int32")
    with TFLite().open(path, UNKNOWN) as runner:
        np.testing.assert_array_equal(runner.infer({"x": np.array([1, 2], np.int64)})["output_0"], [2, 3])
        with pytest.raises(VerificationError, match="int32"):
            runner.infer({"x": np.array([2**40], np.int64)})


def _converted(folder: Path, call, shape: tuple, dtype: str = "float32") -> Path:
    work = folder / "work"
    work.mkdir()
    inputs = (TensorSpec("x", dtype, shape),)
    samples = {"x": np.ones([size if isinstance(size, int) else 2 for size in shape], dtype)}
    path = folder / "model.tflite"
    function = trace(call, inputs, (), None)
    function_to_tflite(function, path, ConversionRequest({}, Interface(inputs), samples, work))
    return path
