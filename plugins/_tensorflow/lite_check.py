"""Compares a TensorFlow Lite file with the function that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from registry_export.entities import TensorSpec
from registry_export.errors import ConversionError
from registry_export.format import Array
from registry_export_plugins._tensorflow.functions import TensorFlowFunction
from registry_export_plugins._tensorflow.lite_runner import LiteRTRunner


def check(function: TensorFlowFunction, path: Path, samples: Mapping[str, Array]) -> None:
    """Run the file on the samples, and on one row more where the batch is open.

    Raises:
        ConversionError: It does not run, or its numbers are far from the function's.
    """
    import tensorflow as tf

    names = [spec.name for spec in function.interface.inputs]
    if not set(names) <= set(samples):
        return
    runner = LiteRTRunner(path, function.interface)
    for extra in (0, 1):
        inputs = {spec.name: _resized(samples[spec.name], spec, extra) for spec in function.interface.inputs}
        actual = list(runner.infer(inputs).values())
        tensors = [tf.constant(inputs[spec.name], tf.as_dtype(spec.dtype)) for spec in function.interface.inputs]
        expected, again = ([value.numpy() for value in function(*tensors)] for _ in range(2))
        for spec, ours, theirs, second in zip(function.interface.outputs, actual, expected, again, strict=True):
            _compare(spec.name, ours, theirs, second)


def _resized(sample: Array, spec: TensorSpec, extra: int) -> Array:
    """Cut a sample to the fixed sizes of an input; repeat its first row where the batch is open."""
    if spec.shape is None or not spec.shape:
        return sample
    cut = sample[tuple(slice(0, size) if isinstance(size, int) else slice(None) for size in spec.shape)]
    return np.concatenate([cut, cut[:extra]]) if spec.shape[0] == "batch" else cut


def _compare(name: str, actual: Array, expected: Array, again: Array) -> None:
    if actual.shape != expected.shape:
        raise ConversionError(f"The converted model's output {name} has shape {actual.shape}, not {expected.shape}.")
    if expected.dtype.kind != "f" or not np.isfinite(expected).all():
        return
    # A coarse net for a wrong conversion; the verdict on accuracy is the verification's.
    allowed = 1e-2 * float(np.max(np.abs(expected), initial=1.0))
    difference = _largest(actual, expected)
    if not difference <= allowed and _largest(again, expected) <= allowed:  # no conversion draws the same at random
        raise ConversionError(f"The converted model's output {name} is off by {difference:.3g} on the samples.")


def _largest(one: Array, other: Array) -> float:
    return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))
