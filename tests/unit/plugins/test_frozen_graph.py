from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import ConversionRequest, ModelSetup
from registry_export_plugins._tensorflow.functions import trace
from registry_export_plugins.frozen_graph import FrozenGraph, from_keras_model, from_tf_function
from registry_export_plugins.keras import Keras
from tests.unit.plugins.keras_support import reference

UNKNOWN = Interface(inputs=())


@pytest.mark.parametrize("name", ["cnn", "mixed", "recurrent", "odd_names", "attention"])
def test_a_keras_model_gives_the_same_numbers_names_and_order_at_every_batch(tmp_path: Path, name: str):
    made = reference(name, tmp_path)
    path = tmp_path / "model.pb"
    from_keras_model(Keras().load(made.path, UNKNOWN), path, made.request(tmp_path / "work"))
    with FrozenGraph().open(path, made.interface) as runner:
        made.check(runner)
    description = FrozenGraph().describe(path)
    assert int(description.format_version or 0) > 1000
    assert [spec.shape for spec in description.interface.inputs] == [spec.shape for spec in made.interface.inputs]


def test_a_stranger_s_graph_has_its_placeholders_as_inputs_and_its_sinks_as_outputs(tmp_path: Path):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "pixels")
        hidden = tf.identity(x @ tf.constant(np.eye(3, dtype=np.float32)), "hidden")
        tf.nn.softmax(hidden, name="probabilities")
        tf.argmax(hidden, 1, name="label")
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    assert FrozenGraph().locate(tmp_path, {}) == path
    with FrozenGraph().open(path, UNKNOWN) as runner:
        assert runner.interface.inputs == (TensorSpec("pixels", "float32", ("batch", 3)),)
        outputs = runner.infer({"pixels": np.array([[1, 2, 3]], np.float32)})
    assert list(outputs) == ["probabilities", "label"]
    np.testing.assert_array_equal(outputs["label"], [2])
    function = FrozenGraph().load(path, UNKNOWN)
    request = ConversionRequest({}, function.interface, {}, tmp_path)
    assert "placeholders" in from_tf_function(function, tmp_path / "again.pb", request).notes[0]


def test_a_graph_whose_variables_are_not_frozen_is_refused(tmp_path: Path):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], "x")
        _ = x @ tf.compat.v1.get_variable("kernel", [3, 2], use_resource=False)
    path = tmp_path / "model.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(SourceError, match=r"not frozen: kernel"):
        FrozenGraph().load(path, UNKNOWN)


def test_a_damaged_graph_and_a_saved_model_are_no_frozen_graphs(tmp_path: Path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    assert FrozenGraph().locate(tmp_path, {}) is None
    (tmp_path / "model.pb").write_bytes(b"nonsense")
    with pytest.raises(SourceError, match=r"model\.pb"):
        FrozenGraph().load(tmp_path / "model.pb", UNKNOWN)


def test_a_wrapper_is_put_around_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from registry_export_plugins._tensorflow.frozen import freeze

    path = tmp_path / "model.pb"
    freeze(trace(lambda x: [x * 2], (TensorSpec("x", "float32", ("batch", 3)),), ("twice",), None), path)
    (tmp_path / "around_graph.py").write_text(
        "import tensorflow as tf\n"
        "def best(inner):\n"
        "    return lambda x: {'best': tf.argmax(inner(x)['twice'], 1), 'all': inner(x)['twice']}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with FrozenGraph().open(path, UNKNOWN, ModelSetup(wrapper="around_graph:best")) as runner:
        outputs = runner.infer({"x": np.array([[1, 5, 2]], np.float32)})
    assert list(outputs) == ["best", "all"]
    assert outputs["best"].tolist() == [1]
