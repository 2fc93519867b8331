"""Small Keras models of the kinds that people log, with weights that are not their initial ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """A model and how to feed it: `inputs(batch)` gives arrays by input name."""

    model: Any
    inputs: Callable[[int], Inputs]

    def save(self, folder: Path) -> Path:
        """Write the model as MLflow's keras flavor lays it out."""
        path = folder / "data" / "model.keras"
        path.parent.mkdir(parents=True)
        self.model.save(path)
        return path


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def _tokens(batch: int, length: int, dtype: str = "int32") -> np.ndarray:
    return np.random.default_rng(batch).integers(1, 20, (batch, length)).astype(dtype)


def _stirred(model: Any) -> Any:
    """Give normalizations and biases values that a wrong folding would show."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.split("/")[-1]
        if kind in ("moving_variance", "gamma"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif kind in ("moving_mean", "beta", "bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return model


def cnn() -> Sample:
    """A small convolutional classifier."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.Conv2D(8, 1, groups=2),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(5, name="scores"),
        ]
    )
    return Sample(_stirred(model), lambda batch: {"image": _floats(batch, 16, 16, 3)})


def mixed() -> Sample:
    """Three inputs, one of them integers, and a dict of two outputs that are not in alphabetical order."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    numbers = keras.Input((6,), name="numbers")
    image = keras.Input((8, 8, 3), name="image")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    hidden = layers.Concatenate()(
        [
            layers.Dense(8, activation="gelu")(numbers),
            layers.Flatten()(layers.Conv2D(4, 3, strides=2, activation="relu")(image)),
            layers.GlobalAveragePooling1D()(layers.Embedding(20, 8)(tokens)),
        ]
    )
    hidden = layers.LayerNormalization()(hidden)
    outputs = {"probability": layers.Dense(3, activation="softmax")(hidden), "amount": layers.Dense(1)(hidden)}
    return Sample(
        _stirred(keras.Model([numbers, image, tokens], outputs)),
        lambda batch: {"numbers": _floats(batch, 6), "image": _floats(batch, 8, 8, 3), "tokens": _tokens(batch, 5)},
    )


def recurrent() -> Sample:
    """An embedding, a bidirectional GRU and an LSTM over an open length."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = layers.Bidirectional(layers.GRU(6, return_sequences=True))(layers.Embedding(20, 8)(tokens))
    scores = layers.Dense(3, name="scores")(layers.LSTM(5)(hidden))
    return Sample(_stirred(keras.Model(tokens, scores)), lambda batch: {"tokens": _tokens(batch, 6)})


def masked() -> Sample:
    """An LSTM of fixed length that skips padding."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    tokens = keras.Input((8,), dtype="int64", name="tokens")
    hidden = layers.LSTM(6)(layers.Embedding(20, 8, mask_zero=True)(tokens))
    model = keras.Model(tokens, layers.Dense(3, name="scores")(hidden))
    padding = np.arange(8) < 5
    return Sample(model, lambda batch: {"tokens": np.where(padding, _tokens(batch, 8, "int64"), 0)})


def attention() -> Sample:
    """A transformer block."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    given = keras.Input((7, 16), name="sequence")
    hidden = layers.LayerNormalization()(given + layers.MultiHeadAttention(2, 8)(given, given))
    hidden = hidden + layers.Dense(16)(layers.Dense(32, activation="gelu")(hidden))
    outputs = [layers.GlobalAveragePooling1D(name="pooled")(hidden), hidden]
    return Sample(_stirred(keras.Model(given, outputs)), lambda batch: {"sequence": _floats(batch, 7, 16)})


def distributed() -> Sample:
    """One layer at every time of an open length: Keras's own export of it is wrong."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 4), name="x"), layers.TimeDistributed(layers.Dense(2))])
    return Sample(model, lambda batch: {"x": _floats(batch, 6, 4)})


def odd_names() -> Sample:
    """Names that TensorFlow's signatures cannot take as they are."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    first, second = keras.Input((4,), name="img:0"), keras.Input((4,), name="if")
    outputs = {"y/0": layers.Add()([first, second]), "y.1": layers.Dense(2)(first)}
    return Sample(
        keras.Model([first, second], outputs),
        lambda batch: {"img:0": _floats(batch, 4), "if": _floats(batch, 4) + 1},
    )


SAMPLES: dict[str, Callable[[], Sample]] = {
    "cnn": cnn,
    "mixed": mixed,
    "recurrent": recurrent,
    "masked": masked,
    "attention": attention,
    "distributed": distributed,
    "odd_names": odd_names,
}
