from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ConversionRequest
from registry_export_plugins.keras import Keras, from_keras_model
from tests.keras_models import cnn, mixed

UNKNOWN = Interface(inputs=())


def test_names_and_sizes_come_from_the_model_when_there_is_no_signature(tmp_path: Path):
    sample = mixed()
    path = sample.save(tmp_path)
    with Keras().open(path, UNKNOWN) as runner:
        assert [(spec.name, spec.dtype, spec.shape) for spec in runner.interface.inputs] == [
            ("numbers", "float32", ("batch", 6)),
            ("image", "float32", ("batch", 8, 8, 3)),
            ("tokens", "int32", ("batch", 5)),
        ]
        assert [spec.name for spec in runner.interface.outputs] == ["probability", "amount"]
        assert list(runner.infer(sample.inputs(3))) == ["probability", "amount"]


def test_a_signature_fixes_a_length_that_the_model_leaves_open(tmp_path: Path):
    from tests.keras_models import recurrent

    path = recurrent().save(tmp_path)
    declared = Interface(inputs=(TensorSpec("", "int32", ("batch", 6)),))
    with Keras().open(path, declared) as runner:
        assert runner.interface.inputs == (TensorSpec("tokens", "int32", ("batch", 6)),)
    with Keras().open(path, UNKNOWN) as runner:
        assert runner.interface.inputs == (TensorSpec("tokens", "int32", ("batch", "tokens_1")),)


def test_dropout_is_off(tmp_path: Path):
    sample = cnn()
    with Keras().open(sample.save(tmp_path), UNKNOWN) as runner:
        first, second = (runner.infer(sample.inputs(4))["scores"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_subclassed_model_takes_its_inputs_as_its_signature_names_them(tmp_path: Path):
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Two(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(2)

        def call(self, inputs, training=False):
            return {"b": self.first(inputs["a"]), "a": [self.second(inputs["c"])]}

    model = Two()
    feed = {"a": np.ones((2, 4), np.float32), "c": np.ones((2, 5), np.float32)}
    expected = model(feed)
    model.save(tmp_path / "model.keras")
    declared = Interface(tuple(TensorSpec(name, "float32", ("batch", *x.shape[1:])) for name, x in feed.items()))
    with Keras().open(tmp_path / "model.keras", declared) as runner:
        actual = runner.infer(feed)
    assert list(actual) == ["b", "a.0"]
    np.testing.assert_allclose(actual["b"], expected["b"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Model 'late")
def test_weights_that_keras_makes_at_the_first_call_are_those_of_the_file(tmp_path: Path):
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Late(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(2)

        def call(self, query, context=None):
            return {"scores": self.second(self.first(query) + context), "both": (query, context)}

    model = Late()
    feed = {"query": np.ones((2, 4), np.float32), "context": np.ones((2, 3), np.float32)}
    expected = model(**feed)["scores"]
    model.save(tmp_path / "model.keras")
    assert len(keras.saving.load_model(tmp_path / "model.keras").weights) < 4
    declared = Interface(tuple(TensorSpec(name, "float32", ("batch", x.shape[1])) for name, x in feed.items()))
    with Keras().open(tmp_path / "model.keras", declared) as runner:
        np.testing.assert_allclose(runner.infer(feed)["scores"], expected, rtol=1e-6)

    written = tmp_path / "export" / "model.keras"
    written.parent.mkdir()
    loaded = Keras().load(tmp_path / "model.keras", declared)
    result = from_keras_model(loaded, written, ConversionRequest({}, declared, feed, tmp_path))
    assert "The file holds a functional model around Late" in result.notes[0]
    plainly = keras.saving.load_model(written)
    np.testing.assert_allclose(plainly(feed)["scores"], expected, rtol=1e-6)
    with Keras().open(written, declared) as runner:
        actual = runner.infer(feed)
    assert list(actual) == ["scores", "both.0", "both.1"]
    np.testing.assert_allclose(actual["scores"], expected, rtol=1e-6)


def test_a_sequential_that_its_first_call_built_keeps_an_open_batch(tmp_path: Path):
    import keras

    model = keras.Sequential([keras.layers.Dense(2)])
    model(np.ones((1, 5), np.float32))
    model.save(tmp_path / "model.keras")
    with Keras().open(tmp_path / "model.keras", UNKNOWN) as runner:
        (given,) = runner.interface.inputs
        assert given.shape == ("batch", 5)
        assert next(iter(runner.infer({given.name: np.ones((3, 5), np.float32)}).values())).shape == (3, 2)


def test_a_model_without_inputs_or_signature_says_what_to_log(tmp_path: Path):
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Unbuilt(keras.Model):
        def call(self, x):
            return x

    Unbuilt().save(tmp_path / "model.keras")
    with pytest.raises(SourceError, match="infer_signature"), Keras().open(tmp_path / "model.keras", UNKNOWN):
        pass


def test_a_damaged_file_is_a_source_error_that_names_it(tmp_path: Path):
    (tmp_path / "model.keras").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match=r"model\.keras"):
        Keras().load(tmp_path / "model.keras", UNKNOWN)


@pytest.mark.parametrize(
    ("file", "flavors"),
    [
        ("data/model.keras", {"keras": {"data": "data", "save_exported_model": False}}),
        ("data/model.keras", {"tensorflow": {"data": "data", "model_type": "keras"}}),
        ("data/model.h5", {"tensorflow": {"data": "data", "save_format": "h5"}}),
        ("anything.h5", {}),
    ],
)
def test_every_layout_that_mlflow_writes_is_located(tmp_path: Path, file: str, flavors: dict):
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    assert Keras().locate(tmp_path, flavors) == place


def test_other_flavors_are_not_taken_for_keras(tmp_path: Path):
    (tmp_path / "data").mkdir()
    assert Keras().locate(tmp_path, {"tensorflow": {"saved_model_dir": "tf2model"}}) is None
    assert Keras().locate(tmp_path, {"onnx": {"data": "model.onnx"}}) is None


def test_a_class_that_is_not_here_is_named_without_its_configuration(tmp_path: Path):
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Absent(keras.layers.Layer):
        pass

    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Input((4,)), Absent()]).save(path)
    keras.saving.get_custom_objects().pop("tests>Absent")
    with pytest.raises(SourceError, match=r"'Absent'.*mlflow\.tensorflow\.log_model") as caught:
        Keras().load(path, UNKNOWN)
    assert "config" not in str(caught.value)


def test_a_bidirectional_layer_that_skips_padding_is_unrolled_with_its_mask_the_right_way_round():
    import keras
    from keras import layers

    from registry_export_plugins._tensorflow.keras_tracing import unrolled

    keras.utils.set_random_seed(0)
    given = keras.Input((6, 3), name="sequence")
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Masking()(given))
    model = keras.Model(given, [both, layers.GRU(2, go_backwards=True)(both)])
    padded = np.random.default_rng(0).normal(size=(3, 6, 3)).astype(np.float32)
    padded[0, 4:] = padded[1, :2] = 0
    expected = [np.asarray(value) for value in model(padded)]
    with unrolled(model):
        actual = [np.asarray(value) for value in model(padded)]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
