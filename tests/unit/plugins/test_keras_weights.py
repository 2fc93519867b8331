from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import NO_SETUP, ModelSetup
from registry_export_plugins.keras import Keras
from registry_export_plugins.keras_weights import KerasWeights
from registry_export_plugins.tf_checkpoint import TFCheckpoint
from tests.support.sources import tensorflow as sources

UNKNOWN = Interface(inputs=())
NET = ModelSetup(model_factory="tests.support.sources.tensorflow:keras_net")
MODULE = ModelSetup(model_factory="tests.support.sources.tensorflow:module")


def _write(folder: Path, kind: str):
    net = sources.trained()
    if kind == "cp-0003.ckpt":
        sources.write_keras_2(net, folder / kind)
    else:
        net.save_weights(folder / kind)
    return np.asarray(net(sources.rows()))


@pytest.mark.parametrize("kind", ["net.weights.h5", "cp-0003.ckpt"])
def test_weights_find_their_places_in_what_the_factory_builds(tmp_path: Path, kind: str):
    expected = _write(tmp_path, kind)
    path = KerasWeights().locate(tmp_path, {})
    assert path is not None
    assert path.name.startswith(kind)
    with KerasWeights().open(path, UNKNOWN, NET) as runner:
        assert runner.interface.inputs == (TensorSpec("image", "float32", ("batch", 12, 12, 3)),)
        np.testing.assert_allclose(runner.infer({"image": sources.rows()})["scores"], expected, rtol=1e-5, atol=1e-6)


def test_weights_in_plain_hdf5_are_told_from_a_whole_model(tmp_path: Path):
    net = sources.trained()
    (tmp_path / "whole").mkdir()
    net.save(tmp_path / "whole" / "net.h5")
    (tmp_path / "weights").mkdir()
    net.save_weights(tmp_path / "weights" / "net.weights.h5")
    (tmp_path / "weights" / "net.weights.h5").rename(tmp_path / "weights" / "net.h5")
    assert Keras().locate(tmp_path / "whole", {}) == tmp_path / "whole" / "net.h5"
    assert KerasWeights().locate(tmp_path / "whole", {}) is None
    assert Keras().locate(tmp_path / "weights", {}) is None
    assert KerasWeights().locate(tmp_path / "weights", {}) == tmp_path / "weights" / "net.h5"


def test_weights_without_a_factory_say_what_to_name(tmp_path: Path):
    _write(tmp_path, "net.weights.h5")
    with pytest.raises(SourceError, match="model_factory"):
        KerasWeights().load(tmp_path / "net.weights.h5", UNKNOWN, NO_SETUP)


@pytest.mark.parametrize("kind", ["net.weights.h5", "cp-0003.ckpt"])
def test_weights_of_another_net_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    _write(tmp_path, kind)
    (tmp_path / "other_net.py").write_text(
        "import keras\n"
        "def build():\n"
        "    return keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])\n"
        "def nothing():\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = KerasWeights().locate(tmp_path, {})
    with pytest.raises(SourceError, match=r"as it was when the weights were saved"):
        KerasWeights().load(path, UNKNOWN, ModelSetup(model_factory="other_net:build"))
    with pytest.raises(SourceError, match=r"int, not a keras\.Model"):
        KerasWeights().load(path, UNKNOWN, ModelSetup(model_factory="other_net:nothing"))


def test_the_checkpoint_that_the_state_file_names_is_taken(tmp_path: Path):
    for name in ("cp-0001.ckpt", "cp-0002.ckpt"):
        sources.write_keras_2(sources.trained(), tmp_path / name)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/cp-0001.ckpt"\n')
    assert KerasWeights().locate(tmp_path, {}) == tmp_path / "cp-0001.ckpt.index"
    (tmp_path / "checkpoint").unlink()
    assert KerasWeights().locate(tmp_path, {}) == tmp_path / "cp-0002.ckpt.index"
    assert TFCheckpoint().locate(tmp_path, {}) is None


def test_a_subclassed_model_of_keras_2_is_matched_by_its_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import tensorflow as tf

    (tmp_path / "two_layers.py").write_text(
        "import keras\n"
        "class Two(keras.Model):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(4)\n"
        "    def call(self, x):\n"
        "        return self.second(keras.ops.relu(self.first(x)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    root, values = tf.Module(), {}
    for name in ("first", "second"):
        node = tf.Module()
        for leaf, shape in (("kernel", (4, 4)), ("bias", (4,))):
            values[name, leaf] = rng.normal(size=shape).astype(np.float32)
            node._track_trackable(tf.Variable(values[name, leaf]), name=leaf)
        root._track_trackable(node, name=name)
    tf.train.Checkpoint(root).write(str(tmp_path / "cp.ckpt"))
    path = TFCheckpoint().locate(tmp_path, {})
    declared = Interface((TensorSpec("x", "float32", ("batch", 4)),))
    x = rng.normal(size=(3, 4)).astype(np.float32)
    with TFCheckpoint().open(path, declared, ModelSetup(model_factory="two_layers:Two")) as runner:
        (actual,) = runner.infer({"x": x}).values()
    hidden = np.maximum(x @ values["first", "kernel"] + values["first", "bias"], 0)
    np.testing.assert_allclose(actual, hidden @ values["second", "kernel"] + values["second", "bias"], atol=1e-5)


@pytest.mark.parametrize("keyword", [True, False])
def test_a_modules_checkpoint_is_restored_whatever_it_was_called(tmp_path: Path, keyword: bool):
    import tensorflow as tf

    made = sources._filled()
    checkpoint = tf.train.Checkpoint(anything=made, step=tf.Variable(3)) if keyword else tf.train.Checkpoint(made)
    checkpoint.save(str(tmp_path / "ckpt"))
    path = TFCheckpoint().locate(tmp_path, {})
    assert path == tmp_path / "ckpt-1.index"
    with TFCheckpoint().open(path, UNKNOWN, MODULE) as runner:
        assert runner.interface.inputs == (TensorSpec("image", "float32", ("batch", 12, 12, 3)),)
        actual = runner.infer({"image": sources.rows()})
    np.testing.assert_allclose(actual["scores"], made(sources.rows())["scores"], rtol=1e-5)


def test_a_checkpoint_of_other_variables_names_both_sides(tmp_path: Path):
    import tensorflow as tf

    tf.train.Checkpoint(net=tf.Variable(tf.zeros([3]))).save(str(tmp_path / "ckpt"))
    with pytest.raises(SourceError, match=r"does not fit.*holds.*net"):
        TFCheckpoint().load(tmp_path / "ckpt-1.index", UNKNOWN, MODULE)
