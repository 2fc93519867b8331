"""Runs a TensorFlow function on arrays."""

from __future__ import annotations

from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._tensorflow.functions import TensorFlowFunction


class FunctionRunner:
    """Calls a function; outputs come back in the interface's order."""

    def __init__(self, function: TensorFlowFunction) -> None:
        import tensorflow as tf

        self._function = function
        self.interface = function.interface
        self.runtime = f"tensorflow {tf.__version__}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once; arrays are given the dtypes of the signature."""
        import tensorflow as tf

        arrays = in_order(inputs, self.interface.inputs)
        tensors = [
            tf.constant(array, dtype=tf.as_dtype(spec.dtype))
            for array, spec in zip(arrays, self.interface.inputs, strict=True)
        ]
        results = self._function(*tensors)
        return {spec.name: result.numpy() for spec, result in zip(self.interface.outputs, results, strict=True)}
