"""From PyTorch to a TensorFlow Lite file by litert-torch, where the way through ONNX does not lead.

Every size becomes fixed: the batch is 1, other open sizes are those of the samples. 64-bit integers
become 32-bit ones; the runner casts them and checks that they fit. fp16 and int8 are made of its file
by the AI Edge Quantizer.

Source: https://github.com/google-ai-edge/litert-torch
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Attempt, TensorSpec
from registry_export.errors import ConversionError
from registry_export.format import Array, ConversionRequest, ConversionResult
from registry_export_plugins._tensorflow.lite_precision import with_precision

FIXED_SIZES = (
    "Every size is fixed (the batch is 1): litert-torch writes no open sizes. "
    "Feed one row at a time, of exactly these sizes."
)


def convert_program(program: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert an `ExportedProgram`; see `convert_module`."""
    return convert_module(program.module(), output, request)


def convert_module(module: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a module that is called positionally with the interface's inputs.

    Args:
        module: A `torch.nn.Module`.
        output: The `.tflite` file to write.
        request: Inputs in order, and samples that fix open sizes.

    Raises:
        ConversionError: litert-torch refused the model.
    """
    import litert_torch
    import torch

    inputs = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in _samples(request))
    try:
        with torch.no_grad():
            converted = litert_torch.convert(module, inputs)
            converted.export(str(output))
    # Whatever this stack of exporters and compilers raises is its refusal.
    except Exception as error:
        from registry_export_plugins._torch.calls import first_line

        raise ConversionError(f"litert-torch refused the model: {first_line(error)}") from error
    precise = with_precision(output.read_bytes(), request, request.interface)
    output.write_bytes(precise.content)
    return ConversionResult((Attempt("litert-torch"), *precise.attempts), (FIXED_SIZES, *precise.notes))


def _samples(request: ConversionRequest) -> Sequence[Array]:
    return [_cut(spec, request.samples[spec.name]) for spec in request.interface.inputs]


def _cut(spec: TensorSpec, sample: Array) -> Array:
    """Cut a sample to one row where the batch is open."""
    return sample[:1] if spec.shape and spec.shape[0] == "batch" else sample
