"""TensorFlow's and Keras's files as people log them without a flavor, and the factories that their weights need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry_export.format import ModelSetup
from tests.support.sources.source import TENSORFLOW, Source

_KERAS = ModelSetup(model_factory=f"{__name__}:keras_net")
_MODULE = ModelSetup(model_factory=f"{__name__}:module")

SOURCES = {
    "keras_h5": Source("keras", TENSORFLOW, f"{__name__}:keras_h5", samples=True),
    "keras_weights": Source("keras_weights", TENSORFLOW, f"{__name__}:keras_weights", _KERAS, samples=True),
    "keras_2_checkpoint": Source("keras_weights", TENSORFLOW, f"{__name__}:keras_2_checkpoint", _KERAS, samples=True),
    "saved_model_folder": Source("saved_model", TENSORFLOW, f"{__name__}:saved_model_folder", samples=True),
    "tf_checkpoint": Source("tf_checkpoint", TENSORFLOW, f"{__name__}:tf_checkpoint", _MODULE, samples=True),
    "frozen_graph": Source("frozen_graph", TENSORFLOW, f"{__name__}:frozen_graph", samples=True),
}


def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((16, 12, 12, 3)).astype(np.float32)


def keras_net():
    """Build the net that the weights belong to, with other weights."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(12, 3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, name="scores"),
        ]
    )


def trained():
    """The same net with weights of its own."""
    import keras

    keras.utils.set_random_seed(7)
    net, rng = keras_net(), np.random.default_rng(3)
    for weight in net.weights:
        if weight.name in ("moving_variance", "gamma"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("moving_mean", "beta", "bias"):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return net


def module():
    """Build a module with the variables of a perceptron."""
    import tensorflow as tf

    class Perceptron(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernels = [tf.Variable(tf.zeros([432, 16])), tf.Variable(tf.zeros([16, 5]))]
            self.bias = tf.Variable(tf.zeros([5]))

        @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32, "image")])
        def __call__(self, image):
            hidden = tf.nn.relu(tf.reshape(image, [-1, 432]) @ self.kernels[0])
            return {"scores": hidden @ self.kernels[1] + self.bias}

    return Perceptron()


def _filled():
    made, rng = module(), np.random.default_rng(5)
    for variable in made.variables:
        variable.assign(rng.normal(0, 0.1, variable.shape))
    return made


def _started(arguments) -> Path:
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True)
    np.savez(folder.with_suffix(".npz"), image=rows())
    return folder


def keras_h5(arguments):
    trained().save(_started(arguments) / "classifier.h5")


def keras_weights(arguments):
    trained().save_weights(_started(arguments) / "classifier.weights.h5")


def keras_2_checkpoint(arguments):
    write_keras_2(trained(), _started(arguments) / "cp-0003.ckpt")


def write_keras_2(model, prefix: Path) -> None:
    """Write a model's weights with the keys that Keras 2's `save_weights` gave them."""
    import tensorflow as tf

    root = tf.Module()
    for number, layer in enumerate([layer for layer in model.layers if layer.weights]):
        node = tf.Module()
        for weight in layer.weights:
            node._track_trackable(tf.Variable(weight.numpy()), name=weight.name)
        root._track_trackable(node, name=f"layer_with_weights-{number}")
    checkpoint = tf.train.Checkpoint(root)
    checkpoint.write(str(prefix))
    (prefix.parent / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')


def saved_model_folder(arguments):
    import tensorflow as tf

    made = _filled()
    tf.saved_model.save(made, str(_started(arguments) / "1"), signatures={"predict": made.__call__})


def tf_checkpoint(arguments):
    import tensorflow as tf

    tf.train.Checkpoint(net=_filled(), step=tf.Variable(3)).save(str(_started(arguments) / "ckpt"))


def frozen_graph(arguments):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    folder, made = _started(arguments), _filled()
    frozen = convert_variables_to_constants_v2(made.__call__.get_concrete_function())
    (folder / "perceptron.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
