"""Runs a Keras model on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from registry_export.entities import Interface
from registry_export.format import Array, Intermediate, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._tensorflow.keras import to_function
from registry_export_plugins._tensorflow.keras_call import KerasCall, outputs_of


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

        results = self._call(*self._tensors(inputs))
        return {name: np.asarray(keras.ops.convert_to_numpy(tensor)) for name, tensor in results}

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Trace the model, run the trace, and yield what its operations make, with the layers they belong to."""
        from registry_export_plugins._tensorflow.intermediates import watched

        layers = {layer.name for layer in self._call.model._flatten_layers(include_self=False)}
        # By its own names: the trace is of what is loaded, whatever it is asked for elsewhere.
        function = to_function(self._call.model, Interface(self.interface.inputs))
        return watched(function, self._tensors(inputs), layers)

    def _tensors(self, inputs: Tensors) -> list[Any]:
        import tensorflow as tf

        arrays = in_order(inputs, self.interface.inputs)
        return [
            tf.constant(array, dtype=tf.as_dtype(spec.dtype))
            for array, spec in zip(arrays, self.interface.inputs, strict=True)
        ]
