"""The layout of an ncnn network: which blob is which input or output, kept beside the network's files.

A `.param` file knows neither the names that a model's author gave, nor sizes, nor which axis is the
batch. `model.ncnn.json` says so for each of its blobs.

Source: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Description, Dimension, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array

MAGIC = "7767517"
"""First line of every `.param` file; the number of its layout."""
NO_BATCH = 233
"""What ncnn and pnnx write where a tensor has no batch axis."""
FP16_TAG = 0x01306B47
INT8_TAG = 0x000D4B38


@dataclass(frozen=True)
class Blob:
    """One input or output.

    Attributes:
        blob: The network's name for it (`in0`).
        name: The model's.
        dtype: The model's, as NumPy names it; the network computes in float32 and int32.
        shape: The model's sizes, the batch included; a dynamic dimension stands as its name.
        batch_index: The axis that ncnn keeps outside of a `Mat`'s dimensions, or `NO_BATCH`.
    """

    blob: str
    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None
    batch_index: int


@dataclass(frozen=True)
class Layout:
    """All inputs and outputs in the model's order, and what wrote the network."""

    inputs: tuple[Blob, ...]
    outputs: tuple[Blob, ...]
    converter: str

    def interface(self) -> Interface:
        """Return the inputs and outputs under the model's names."""
        return Interface(_specs(self.inputs), _specs(self.outputs))


def _specs(blobs: Sequence[Blob]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(blob.name, blob.dtype, blob.shape) for blob in blobs)


def weights_of(param: Path) -> Path:
    """Return the `.bin` file of a `.param` file."""
    return param.with_suffix(".bin")


def layout_of(param: Path) -> Path:
    """Return the file that keeps the layout of a `.param` file."""
    return param.with_suffix(".json")


def write_layout(layout: Layout, param: Path) -> None:
    """Write the layout beside a network."""
    layout_of(param).write_text(json.dumps(asdict(layout), indent=1) + "\n")


def read_layout(param: Path) -> Layout:
    """Read the layout of a network.

    Raises:
        VerificationError: It is not there, is no layout, or names blobs that the network lacks.
    """
    try:
        kept = json.loads(layout_of(param).read_text())
        layout = Layout(_blobs(kept["inputs"]), _blobs(kept["outputs"]), str(kept["converter"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            f"{layout_of(param).name} does not say what the network's blobs are: {error}"
        ) from error
    known = {name for layer in layers_of(param) for name in layer.outputs}
    lost = [blob.blob for blob in (*layout.inputs, *layout.outputs) if blob.blob not in known]
    if lost:
        raise VerificationError(f"{param.name} has no blob {', '.join(lost)}.")
    return layout


def _blobs(kept: Sequence[dict[str, Any]]) -> tuple[Blob, ...]:
    return tuple(Blob(**{**blob, "shape": None if blob["shape"] is None else tuple(blob["shape"])}) for blob in kept)


@dataclass(frozen=True)
class Layer:
    """One line of a `.param` file: type, name, the blobs that it writes, and its parameters by number."""

    type: str
    name: str
    outputs: tuple[str, ...]
    parameters: Mapping[int, str] = field(default_factory=dict)


def layers_of(param: Path) -> list[Layer]:
    """Read the layers of a network.

    Raises:
        VerificationError: The file is no `.param` file.
    """
    lines = param.read_text(errors="replace").splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise VerificationError(f"{param.name} is no ncnn network: it does not begin with {MAGIC}.")
    layers = []
    for line in lines[2:]:
        words = line.split()
        if len(words) < 4:
            continue
        bottoms, tops = int(words[2]), int(words[3])
        outputs = tuple(words[4 + bottoms : 4 + bottoms + tops])
        layers.append(Layer(words[0], words[1], outputs, _parameters(words[4 + bottoms + tops :])))
    return layers


def _parameters(words: Sequence[str]) -> Mapping[int, str]:
    pairs = (word.partition("=") for word in words)
    return {int(key): value for key, _, value in pairs if key.lstrip("-").isdecimal()}


def precision_of(weights: Path) -> str:
    """Name the precision from the tags that stand before each weight; without a tag they are float32."""
    data = weights.read_bytes()
    words = np.frombuffer(data[: len(data) // 4 * 4], np.uint32)
    if np.any(words == INT8_TAG):
        return "int8"
    return "fp16" if np.any(words == FP16_TAG) else "fp32"


def describe(param: Path) -> Description:
    """Read layout, layers and precision from the files."""
    layout = read_layout(param)
    kinds = sorted({layer.type for layer in layers_of(param)})
    return Description(
        layout.interface(),
        format_version=MAGIC,
        precision=precision_of(weights_of(param)),
        details={
            "converter": layout.converter,
            "inputs": _mapping(layout.inputs),
            "outputs": _mapping(layout.outputs),
            "layers": ", ".join(kinds),
        },
    )


def _mapping(blobs: Sequence[Blob]) -> str:
    return ", ".join(f"{blob.blob} = {blob.name}" for blob in blobs)


def with_rank(array: Array, shape: tuple[Dimension, ...] | None) -> Array:
    """Give back axes of size 1 that a `Mat` left out, or take away those that it added."""
    if shape is None or array.ndim == len(shape):
        return array
    sizes = list(array.shape)
    if array.ndim < len(shape):
        for axis, size in enumerate(shape):
            if size == 1 and len(sizes) < len(shape) and (axis >= len(sizes) or sizes[axis] != 1):
                sizes.insert(axis, 1)
    while len(sizes) > len(shape) and 1 in sizes:
        sizes.remove(1)
    return array.reshape(sizes)
