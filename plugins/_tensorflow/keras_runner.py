"""Runs a Keras model on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export.entities import Interface
from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._tensorflow.keras import KerasCall, outputs_of


class KerasRunner:
    """Calls the model in inference mode."""

    def __init__(self, model: Any, interface: Interface) -> None:
        import keras

        self._call = KerasCall(model, interface)
        self.interface = Interface(self._call.inputs, outputs_of(self._call))
        self.runtime = f"keras {keras.__version__} on {keras.backend.backend()}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once; arrays are given the dtypes of the model's inputs."""
        import keras
        import tensorflow as tf

        arrays = in_order(inputs, self.interface.inputs)
        tensors = [
            tf.constant(array, dtype=tf.as_dtype(spec.dtype))
            for array, spec in zip(arrays, self.interface.inputs, strict=True)
        ]
        return {name: np.asarray(keras.ops.convert_to_numpy(tensor)) for name, tensor in self._call(*tensors)}
