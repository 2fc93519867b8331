"""Optimisation profiles: the sizes between which an engine's open dimensions may vary.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry_export.errors import ConversionError
from registry_export.format import Tensors

LARGEST_BATCH = 64
LARGEST_SIZE = 512
"""The largest sizes that an engine takes on the first axis, and on others, unless twice the sample's is larger."""


def add_profile(builder: Any, network: Any, config: Any, samples: Tensors, smallest_is_sample: bool) -> tuple[str, ...]:
    """Describe the open dimensions of a network's inputs: smallest 1, tuned for the sample's size.

    Args:
        builder: TensorRT's builder.
        network: The parsed network.
        config: Takes the profile.
        samples: Inputs by name.
        smallest_is_sample: Whether sizes other than the batch start at the sample's, for models that
            cannot be as small as 1 (an image smaller than a kernel).

    Returns:
        For each open dimension, a phrase that tells its range; empty when every size is fixed.
    """
    profile = builder.create_optimization_profile()
    told: list[str] = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape, sample = tuple(tensor.shape), samples[tensor.name].shape
        if len(shape) != len(sample):
            raise ConversionError(
                f"The input {tensor.name} has {len(shape)} axes in ONNX and {len(sample)} in the sample."
            )
        if tensor.is_shape_tensor:
            values = [int(value) for value in samples[tensor.name].reshape(-1)]
            profile.set_shape_input(tensor.name, values, values, values)
        if -1 not in shape:
            continue
        ranges = [
            _range(size, own, axis, smallest_is_sample)
            for axis, (size, own) in enumerate(zip(shape, sample, strict=True))
        ]
        profile.set_shape(tensor.name, *(tuple(r[k] for r in ranges) for k in range(3)))
        told += _told(tensor.name, shape, ranges)
    config.add_optimization_profile(profile)
    return tuple(told)


def _range(size: int, sample: int, axis: int, smallest_is_sample: bool) -> tuple[int, int, int]:
    if size >= 0:
        return size, size, size
    largest = LARGEST_BATCH if axis == 0 else LARGEST_SIZE
    return sample if smallest_is_sample and axis else 1, sample, max(largest, 2 * sample)


def _told(name: str, shape: Sequence[int], ranges: Sequence[tuple[int, int, int]]) -> list[str]:
    return [
        f"axis {axis} of {name} from {r[0]} to {r[2]}"
        for axis, (s, r) in enumerate(zip(shape, ranges, strict=True))
        if s < 0
    ]
