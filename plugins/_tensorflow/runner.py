"""Runs a TensorFlow function on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry_export.format import Array, Intermediate, Tensors
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
        results = self._function(*self._tensors(inputs))
        return {spec.name: result.numpy() for spec, result in zip(self.interface.outputs, results, strict=True)}

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more and yield what the operations of the graph make."""
        from registry_export_plugins._tensorflow.intermediates import watched

        return watched(self._function, self._tensors(inputs))

    def _tensors(self, inputs: Tensors) -> list[Any]:
        import tensorflow as tf

        arrays = in_order(inputs, self.interface.inputs)
        return [
            tf.constant(array, dtype=tf.as_dtype(spec.dtype))
            for array, spec in zip(arrays, self.interface.inputs, strict=True)
        ]
