from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ConversionRequest
from registry_export_plugins.keras import Keras
from registry_export_plugins.saved_model import SavedModel, from_keras_model, from_tf_function
from tests.keras_models import SAMPLES
from tests.unit.plugins.keras_support import reference

UNKNOWN = Interface(inputs=())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_keras_model_gives_the_same_numbers_at_every_batch(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    request = made.request(tmp_path / "work")
    from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "model.savedmodel", request)
    with SavedModel().open(tmp_path / "model.savedmodel", made.interface) as runner:
        made.check(runner)


def test_saving_again_keeps_names_that_tensorflow_had_to_change(tmp_path: Path):
    made = reference("odd_names", tmp_path)
    request = made.request(tmp_path / "work")
    from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "first", request)
    from_tf_function(SavedModel().load(tmp_path / "first", made.interface), tmp_path / "second", request)
    with SavedModel().open(tmp_path / "second", made.interface) as runner:
        assert [spec.name for spec in runner.interface.inputs] == ["img:0", "if"]
        made.check(runner)


def test_it_describes_the_file_and_not_the_request(tmp_path: Path):
    made = reference("recurrent", tmp_path)
    from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "model", made.request(tmp_path / "work"))
    description = SavedModel().describe(tmp_path / "model")
    assert description.interface.inputs == (TensorSpec("tokens", "int32", ("batch", "tokens_1")),)
    assert int(description.format_version or 0) > 1000


def test_a_module_without_a_signature_is_traced_from_its_call(tmp_path: Path):
    import tensorflow as tf

    class Doubler(tf.Module):
        @tf.function
        def __call__(self, x):
            return {"twice": 2 * x}

    module = Doubler()
    module(tf.ones((2, 3)))
    module.__call__.get_concrete_function(tf.TensorSpec((None, 3), tf.float32))
    tf.saved_model.save(module, str(tmp_path / "tf2model"))
    path = SavedModel().locate(tmp_path, {"tensorflow": {"saved_model_dir": "tf2model"}})
    assert path is not None
    with SavedModel().open(path, Interface(inputs=(TensorSpec("", "float32", ("batch", 3)),))) as runner:
        actual = runner.infer({"input": np.ones((4, 3), np.float32)})
    np.testing.assert_array_equal(actual["twice"], np.full((4, 3), 2.0))


def test_a_length_can_be_fixed_when_a_function_is_saved_again(tmp_path: Path):
    made = reference("recurrent", tmp_path)
    request = made.request(tmp_path / "work")
    from_keras_model(Keras().load(made.path, UNKNOWN), tmp_path / "first", request)
    fixed = Interface((TensorSpec("tokens", "int32", ("batch", 6)),), made.interface.outputs)
    again = ConversionRequest({}, fixed, request.samples, request.work)
    from_tf_function(SavedModel().load(tmp_path / "first", UNKNOWN), tmp_path / "second", again)
    assert SavedModel().describe(tmp_path / "second").interface.inputs[0].shape == ("batch", 6)


def test_a_folder_that_is_no_saved_model_is_a_source_error(tmp_path: Path):
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(SourceError):
        SavedModel().load(tmp_path, UNKNOWN)


def test_inputs_and_outputs_that_no_signature_orders_are_in_the_same_order_in_every_process(tmp_path: Path):
    import tensorflow as tf

    names = list("hgfedcba")
    module = tf.Module()
    module.call = tf.function(
        lambda **tensors: {f"{name}_out": tensor + 1 for name, tensor in tensors.items()}, autograph=False
    ).get_concrete_function(**{name: tf.TensorSpec([None, 2], name=name) for name in names})
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.call)
    loaded = SavedModel().load(tmp_path / "saved", Interface(inputs=()))
    assert [spec.name for spec in loaded.interface.inputs] == sorted(names)
    assert [spec.name for spec in loaded.interface.outputs] == [f"{name}_out" for name in sorted(names)]
