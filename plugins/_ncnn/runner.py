"""Runs a network with ncnn on the CPU, in float32 whatever its weights are stored in.

Source: https://github.com/Tencent/ncnn/tree/master/python
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._ncnn.layout import Blob, Layout, read_layout, weights_of, with_rank

_INT32 = np.iinfo(np.int32)
_SMALLEST_NORMAL = np.finfo(np.float32).tiny


class NcnnRunner:
    """Runs a network under the model's names.

    Attributes:
        interface: Inputs and outputs, the model's names and order.
        runtime: What runs it.
    """

    def __init__(self, param: Path, layout: Layout | None = None) -> None:
        self._layout = layout or read_layout(param)
        self._net = _load(param)
        self.interface = self._layout.interface()
        self.runtime = f"ncnn {ncnn.__version__}, fp32 arithmetic"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: An input does not fit, or a layer failed.
        """
        extractor = self._net.create_extractor()
        for blob, array in zip(self._layout.inputs, in_order(inputs, self.interface.inputs), strict=True):
            if extractor.input(blob.blob, _mat(blob, np.asarray(array))) != 0:
                raise VerificationError(f"ncnn does not take the input {blob.name}.")
        return {blob.name: _extract(extractor, blob) for blob in self._layout.outputs}


def _load(param: Path) -> Any:
    net = ncnn.Net()
    # Halves would hide what the conversion lost behind what this machine's arithmetic loses.
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed", "vulkan_compute"):
        if hasattr(net.opt, f"use_{option}"):
            setattr(net.opt, f"use_{option}", False)
    net.opt.num_threads = 1
    if net.load_param(str(param)) != 0 or net.load_model(str(weights_of(param))) != 0:
        raise VerificationError(f"ncnn cannot load {param.name}.")
    return net


def _mat(blob: Blob, array: Array) -> Any:
    if array.dtype.kind in "iu":
        if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
            raise VerificationError(f"The input {blob.name} holds values that do not fit ncnn's int32.")
        array = array.astype(np.int32)
    else:
        array = array.astype(np.float32)
    try:
        # The clone owns its memory: a Mat that wraps an array outlives it.
        return ncnn.Mat(np.ascontiguousarray(array), batch_index=blob.batch_index).clone()
    except (RuntimeError, ValueError, TypeError) as error:
        raise VerificationError(f"ncnn has no Mat of the shape {array.shape} of {blob.name}: {error}") from error


def _extract(extractor: Any, blob: Blob) -> Array:
    code, mat = extractor.extract(blob.blob)
    if code != 0 or mat.empty():
        raise VerificationError(f"ncnn could not compute the output {blob.name} (code {code}).")
    array = np.array(mat.numpy(batch_index=blob.batch_index))
    dtype = np.dtype(blob.dtype or "float32")
    return with_rank(_integers(array) if dtype.kind in "iub" else array, blob.shape).astype(dtype)


def _integers(array: Array) -> Array:
    """Read integers, which some layers write as floats and others as int32 in the same four bytes.

    Small integers read as floats are subnormal numbers, which no layer writes.
    """
    small = np.abs(array) < _SMALLEST_NORMAL
    return array.view(np.int32) if array.dtype == np.float32 and np.any(small & (array != 0)) else array
