"""Logged models, one for each source format, made in children so that the tests import no framework.

Every builder takes `{"folder": ...}` and leaves an MLflow model there, as `log_model` would.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry_export.format import Toolchain

TORCH = Toolchain("build-torch", ("torch", "mlflow.pytorch"))
TENSORFLOW = Toolchain("build-tensorflow", ("tensorflow", "keras", "mlflow.tensorflow", "mlflow.keras"))

SOURCES = {
    "pytorch": (TORCH, "pytorch"),
    "exported_program": (TORCH, "exported_program"),
    "onnx": (TORCH, "onnx"),
    "keras": (TENSORFLOW, "keras_model"),
    "saved_model": (TENSORFLOW, "saved_model"),
}
"""Source format -> toolchain and name of the builder below."""


def example():
    return np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)


def channels_last():
    return np.ascontiguousarray(example().transpose(0, 2, 3, 1))


def _net():
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 5),
    )
    for module in net.modules():  # statistics that a forgotten fusion would show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def pytorch(arguments):
    import mlflow

    mlflow.pytorch.save_model(
        _net(), arguments["folder"], input_example=example(), serialization_format="pickle", pip_requirements=["torch"]
    )


def exported_program(arguments):
    import mlflow

    mlflow.pytorch.save_model(_net(), arguments["folder"], input_example=example(), pip_requirements=["torch"])


def onnx(arguments):
    import mlflow
    import onnx as onnx_package
    import torch
    from mlflow.models import infer_signature

    path = Path(arguments["folder"] + ".onnx")
    torch.onnx.export(
        _net(),
        (torch.from_numpy(example()),),
        path,
        dynamo=True,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    signature = infer_signature({"pixels": example()}, {"scores": np.zeros((4, 5), np.float32)})
    mlflow.onnx.save_model(onnx_package.load(path), arguments["folder"], signature=signature, pip_requirements=[])


def _keras():
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="pixels")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.Activation("gelu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(5, name="scores")(x))


def keras_model(arguments):
    import mlflow

    mlflow.keras.save_model(_keras(), arguments["folder"], pip_requirements=["keras"])


def saved_model(arguments):
    import mlflow
    import tensorflow as tf
    from mlflow.models import infer_signature

    model = _keras()

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32, name="pixels")])
        def serve(self, pixels):
            scores = self.model(pixels, training=False)
            return {"scores": scores, "best": tf.argmax(scores, axis=-1)}

    signature = infer_signature(
        {"pixels": channels_last()}, {"scores": np.zeros((4, 5), np.float32), "best": np.zeros(4, np.int64)}
    )
    mlflow.tensorflow.save_model(Served(), arguments["folder"], signature=signature, pip_requirements=[])
