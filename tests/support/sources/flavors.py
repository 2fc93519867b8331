"""Models as MLflow's own flavors log them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.sources.source import TENSORFLOW, TORCH, Source

SOURCES = {
    "pytorch": Source("pytorch", TORCH, f"{__name__}:pytorch"),
    "exported_program": Source("exported_program", TORCH, f"{__name__}:exported_program"),
    "onnx": Source("onnx", TORCH, f"{__name__}:onnx", samples=True),
    "keras": Source("keras", TENSORFLOW, f"{__name__}:keras_model", samples=True),
    "saved_model": Source("saved_model", TENSORFLOW, f"{__name__}:saved_model", samples=True),
}


def example():
    return np.random.default_rng(0).standard_normal((32, 3, 16, 16)).astype(np.float32)


def channels_last():
    return np.ascontiguousarray(example().transpose(0, 2, 3, 1))


def conv_net():
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
        conv_net(),
        arguments["folder"],
        input_example=example(),
        serialization_format="pickle",
        pip_requirements=["torch"],
    )


def exported_program(arguments):
    import mlflow

    mlflow.pytorch.save_model(conv_net(), arguments["folder"], input_example=example(), pip_requirements=["torch"])


def onnx(arguments):
    import mlflow
    import onnx as onnx_package
    import torch
    from mlflow.models import infer_signature

    path = Path(arguments["folder"] + ".onnx")
    torch.onnx.export(
        conv_net(),
        (torch.from_numpy(example()),),
        path,
        dynamo=True,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    signature = infer_signature({"pixels": example()}, {"scores": np.zeros((32, 5), np.float32)})
    np.savez(f"{arguments['folder']}.npz", pixels=example())
    mlflow.onnx.save_model(onnx_package.load(path), arguments["folder"], signature=signature, pip_requirements=[])


def keras_net():
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

    np.savez(f"{arguments['folder']}.npz", pixels=channels_last())
    mlflow.keras.save_model(keras_net(), arguments["folder"], pip_requirements=["keras"])


def saved_model(arguments):
    import mlflow
    import tensorflow as tf
    from mlflow.models import infer_signature

    model = keras_net()

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 3), tf.float32, name="pixels")])
        def serve(self, pixels):
            scores = self.model(pixels, training=False)
            return {"scores": scores, "best": tf.argmax(scores, axis=-1)}

    signature = infer_signature(
        {"pixels": channels_last()}, {"scores": np.zeros((32, 5), np.float32), "best": np.zeros(32, np.int64)}
    )
    np.savez(f"{arguments['folder']}.npz", pixels=channels_last())
    mlflow.tensorflow.save_model(Served(), arguments["folder"], signature=signature, pip_requirements=[])
