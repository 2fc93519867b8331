"""Keras models and what is changed of them: of their configuration, layer by layer, and of their weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.faults.mutations_of_arrays import bf16, fp16, one_weight, zeros

Weights = list[np.ndarray]


@dataclass(frozen=True)
class Fault:
    """One thing that is broken.

    Attributes:
        layers: Layer -> values of its configuration.
        classes: Layer -> the class in its place.
        weights: Layer -> what becomes of its weights; `*`: of all layers'.
        unmasked: Layers that get no mask.
    """

    kind: str
    name: str
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Callable[[Weights], Weights]] = field(default_factory=dict)
    unmasked: tuple[str, ...] = ()

    def plant(self, model: Any) -> Any:
        """Return the mutated model."""
        config = model.get_config()
        for entry in config["layers"]:
            name = entry["config"]["name"]
            if name in self.classes:
                entry["class_name"] = self.classes[name]
                entry["config"] = {"name": name, "dtype": "float32"}
                entry.pop("build_config", None)
                for node in entry["inbound_nodes"]:
                    node["kwargs"] = {}
            for node in entry["inbound_nodes"] if name in self.unmasked else ():
                node["kwargs"].pop("mask")
            entry["config"].update(self.layers.get(name, {}))
        mutated = keras.Model.from_config(config)
        mutated.set_weights(model.get_weights())
        for layer in mutated.layers:
            change = self.weights.get(layer.name, self.weights.get("*"))
            if change is not None and layer.get_weights():
                layer.set_weights(change(layer.get_weights()))
        return mutated


@dataclass(frozen=True)
class Net:
    """A source: how it is built, an example of its inputs, and the faults to plant."""

    build: Callable[[], Any]
    inputs: Mapping[str, np.ndarray]
    faults: tuple[Fault, ...]


def in_double(model: Any) -> Any:
    """Return a model that computes in float64."""
    config = json.loads(json.dumps(model.get_config()).replace("float32", "float64"))
    exact = keras.Model.from_config(config)
    exact.set_weights(model.get_weights())
    return exact


def _stirred(model: Any) -> Any:
    """Draw every weight anew, so that nothing is 0 or 1 by luck."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        drawn = rng.normal(0, 0.3, weight.shape)
        weight.assign(np.abs(drawn) + 0.5 if "variance" in weight.path else drawn)
    return model


def _at(position: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Weights], Weights]:
    return lambda weights: [change(w) if i == position else w for i, w in enumerate(weights)]


def _all(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Weights], Weights]:
    return lambda weights: [change(w) for w in weights]


def _vision() -> Any:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Activation("linear", name="given")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.LeakyReLU(negative_slope=0.2, name="leaky")(x)
    y = layers.UpSampling2D(2, interpolation="bilinear", name="up")(x)
    z = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Concatenate(name="join")([y, z])
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Activation("gelu", name="active")(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="average")(x)
    x = layers.MaxPooling2D(2, name="most")(x)
    x = layers.Activation("linear", name="rows")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(6, activation="relu6", name="hidden")(x)
    return _stirred(keras.Model(image, layers.Dense(4, name="scores")(x)))


def _channels_first(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(3, 3, 16, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)


_VISION = (
    Fault("padding", "SAME padding is symmetric",
          {"conv": {"padding": "valid"}, "given": {"padding": [[1, 0], [1, 0]]}}, {"given": "ZeroPadding2D"}),
    Fault("batch norm statistics", "the running mean is 0", weights={"norm": _at(2, zeros)}),
    Fault("batch norm statistics", "the running variance is 1", weights={"norm": _at(3, np.ones_like)}),
    Fault("batch norm statistics", "scale and shift are swapped",
          weights={"norm": lambda w: [w[1], w[0], w[2], w[3]]}),
    Fault("epsilon", "batch norm with PyTorch's epsilon", {"norm": {"epsilon": 1e-5}}),
    Fault("default of an argument", "leaky ReLU with Keras's default slope", {"leaky": {"negative_slope": 0.3}}),
    Fault("default of an argument", "leaky ReLU with PyTorch's default slope", {"leaky": {"negative_slope": 0.01}}),
    Fault("interpolation", "nearest in place of bilinear", {"up": {"interpolation": "nearest"}}),
    Fault("interpolation", "bicubic in place of bilinear", {"up": {"interpolation": "bicubic"}}),
    Fault("activation", "SiLU in place of GELU", {"active": {"activation": "silu"}}),
    Fault("activation", "ReLU in place of ReLU6", {"hidden": {"activation": "relu"}}),
    Fault("pooling", "the largest in place of the average", classes={"average": "MaxPooling2D"},
          layers={"average": {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}}),
    Fault("pooling", "the average in place of the largest", classes={"most": "AveragePooling2D"},
          layers={"most": {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}}),
    Fault("axes", "height and width are swapped", {"given": {"dims": [2, 1, 3]}}, {"given": "Permute"}),
    Fault("axes", "the picture is flattened with channels first", weights={"hidden": _at(0, _channels_first)}),
    Fault("axes", "the kernel is turned round", weights={"conv": _at(0, lambda k: k[::-1, ::-1])}),
    Fault("transposed convolution", "input and output channels are swapped",
          weights={"transposed": _at(0, lambda k: k.transpose(0, 1, 3, 2))}),
    Fault("transposed convolution", "the kernel is turned round",
          weights={"transposed": _at(0, lambda k: k[::-1, ::-1])}),
    Fault("groups", "the depthwise kernels are in another order",
          weights={"depthwise": _at(0, lambda k: np.roll(k, 1, 2))}),
    Fault("bias dropped", "the convolution has lost its bias", weights={"conv": _at(1, zeros)}),
    Fault("bias dropped", "the scores have lost their bias", weights={"scores": _at(1, zeros)}),
    Fault("one weight", "one weight of the convolution is 10 % larger", weights={"conv": _at(0, one_weight)}),
    Fault("precision", "the weights are rounded to bf16", weights={"*": _all(bf16)}),
    Fault("precision", "the weights are rounded to fp16", weights={"*": _all(fp16)}),
)  # fmt: skip


def _sequence() -> Any:
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    x = layers.Embedding(200, 6, mask_zero=True, name="table")(tokens)
    x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
    x = layers.GRU(5, name="gru")(x)
    return _stirred(keras.Model(tokens, layers.Dense(4, activation="softmax", name="scores")(x)))


def _gates(*order: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda w: np.concatenate([np.split(w, len(order), -1)[i] for i in order], -1)


def _transposed(kernel: np.ndarray) -> np.ndarray:
    return np.concatenate([part.T for part in np.split(kernel, kernel.shape[1] // kernel.shape[0], 1)], 1)


_SEQUENCE = (
    Fault("mask", "the padding is not skipped", {"table": {"mask_zero": False}}, unmasked=("lstm", "gru")),
    Fault("gate order", "forget and cell gate are swapped", weights={"lstm": _all(_gates(0, 2, 1, 3))}),
    Fault("gate order", "the gates are in ONNX's order", weights={"lstm": _all(_gates(0, 3, 1, 2))}),
    Fault("gate order", "update and reset gate are swapped", weights={"gru": _all(_gates(1, 0, 2))}),
    Fault("activation", "the gates use the hard sigmoid", {"lstm": {"recurrent_activation": "hard_sigmoid"}}),
    Fault("activation", "ReLU in place of tanh", {"gru": {"activation": "relu"}}),
    Fault("axes", "the sequence is read backwards", {"lstm": {"go_backwards": True}}),
    Fault("square weight transposed", "the recurrent weights are transposed", weights={"lstm": _at(1, _transposed)}),
    Fault("square weight transposed", "the input weights are transposed", weights={"lstm": _at(0, _transposed)}),
    Fault("bias dropped", "the recurrent bias is lost",
          weights={"gru": _at(2, lambda b: np.stack([b[0], 0 * b[1]]))}),
    Fault("embedding", "every token is taken for the next one", weights={"table": _at(0, lambda w: np.roll(w, -1, 0))}),
    Fault("embedding", "the last token is taken for the one before",
          weights={"table": _at(0, lambda w: np.concatenate([w[:-1], w[-2:-1]]))}),
    Fault("embedding", "tokens saturate at 127",
          weights={"table": _at(0, lambda w: w[np.minimum(np.arange(200), 127)])}),
    Fault("softmax axis", "sigmoid in place of softmax", {"scores": {"activation": "sigmoid"}}),
    Fault("one weight", "one recurrent weight is 10 % larger", weights={"lstm": _at(1, one_weight)}),
    Fault("precision", "the weights are rounded to bf16", weights={"*": _all(bf16)}),
)  # fmt: skip


def _attention() -> Any:
    given = keras.Input((6, 8), name="sequence")
    table = keras.Input((8,), name="table")
    attended = layers.MultiHeadAttention(2, 4, name="attention")(given, given)
    x = layers.LayerNormalization(name="norm", epsilon=1e-4)(layers.Add(name="residual")([given, attended]))
    x = layers.Dense(8, activation="hard_silu", name="wide")(x)
    pooled = layers.GlobalAveragePooling1D(name="pool")(x)
    left = layers.Subtract(name="difference")([pooled, layers.Dense(8, name="side")(table)])
    outputs = [layers.Softmax(name="shares")(left), layers.GlobalMaxPooling1D(name="most")(x)]
    return _stirred(keras.Model([given, table], outputs))


_ATTENTION = (
    Fault("epsilon", "layer norm with Keras's default epsilon", {"norm": {"epsilon": 1e-3}}),
    Fault("epsilon", "layer norm with epsilon 1e-12", {"norm": {"epsilon": 1e-12}}),
    Fault("bias dropped", "layer norm has lost its shift", weights={"norm": _at(1, zeros)}),
    Fault("activation", "SiLU in place of the hard one", {"wide": {"activation": "silu"}}),
    Fault("activation", "ReLU in place of hard SiLU", {"wide": {"activation": "relu"}}),
    Fault("residual", "the residual is multiplied", classes={"residual": "Multiply"}),
    Fault("residual", "the larger of residual and attention is taken", classes={"residual": "Maximum"}),
    Fault("alpha ignored", "a subtraction has lost its sign", classes={"difference": "Add"}),
    Fault("reduction", "the largest in place of the mean", classes={"pool": "GlobalMaxPooling1D"}),
    Fault("reduction", "the mean in place of the largest", classes={"most": "GlobalAveragePooling1D"}),
    Fault("softmax axis", "softmax over the batch", {"shares": {"axis": 0}}),
    Fault("square weight transposed", "the layer's weight is transposed", weights={"wide": _at(0, np.transpose)}),
    Fault("square weight transposed", "the table's weight is transposed", weights={"side": _at(0, np.transpose)}),
    Fault("order of parts", "queries and keys are swapped",
          weights={"attention": lambda w: [w[2], w[3], w[0], w[1], *w[4:]]}),
    Fault("order of parts", "the heads are in another order", weights={"attention": _at(6, lambda w: w[::-1])}),
    Fault("bias dropped", "the queries have lost their bias", weights={"attention": _at(1, zeros)}),
    Fault("one weight", "one weight of the values is 10 % larger", weights={"attention": _at(4, one_weight)}),
    Fault("precision", "the weights are rounded to fp16", weights={"*": _all(fp16)}),
)  # fmt: skip


def _floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _tokens() -> np.ndarray:
    lengths: Sequence[Sequence[int]] = [[8], [5], [3]]
    numbers = np.random.default_rng(0).integers(1, 100, (3, 8), dtype=np.int32)
    return np.where(np.arange(8) < np.array(lengths), numbers, np.int32(0))


NETS = {
    "keras_vision": Net(_vision, {"image": _floats(3, 12, 12, 3)}, _VISION),
    "keras_sequence": Net(_sequence, {"tokens": _tokens()}, _SEQUENCE),
    "keras_attention": Net(_attention, {"sequence": _floats(3, 6, 8), "table": _floats(3, 8, seed=1)}, _ATTENTION),
}
