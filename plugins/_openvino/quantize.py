"""8-bit integers through NNCF: weights and activations, calibrated on samples, or the weights alone.

Sources: https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html,
https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/weight-compression.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from registry_export.entities import TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import Array, ConversionRequest
from registry_export_plugins._openvino.runner import precision_of, reason

MOST_SAMPLES = 300
"""Calibration looks at no more than these: NNCF's own default, beyond which ranges hardly move."""


def quantized(model: Any, request: ConversionRequest) -> tuple[Any, tuple[str, ...]]:
    """Quantise a model as the options `quantization` says.

    Args:
        model: An `openvino.Model` in the interface's order.
        request: Its `calibration` has the rows that activations are measured on.

    Returns:
        The quantised model and notes for the report.

    Raises:
        UnsupportedModelError: The model has nothing that NNCF quantises.
        ConversionError: NNCF refused it, or there are no samples.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    weight_only = request.options.get("quantization") == "weight_only"
    try:
        made, notes = _compressed(model) if weight_only else _calibrated(model, request)
    except ConversionError:
        raise
    except Exception as error:  # NNCF's errors have no common base
        raise ConversionError(f"NNCF could not quantise the model: {reason(error)}") from error
    if precision_of(made.get_ordered_ops()) != "int8":
        raise UnsupportedModelError(
            "NNCF found no layer to quantise: the model has no convolution, matrix product or embedding with weights.",
            remedy="Ask for precision fp16 or fp32.",
        )
    return made, notes


def _compressed(model: Any) -> tuple[Any, tuple[str, ...]]:
    import nncf

    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM), ()


def _calibrated(model: Any, request: ConversionRequest) -> tuple[Any, tuple[str, ...]]:
    import nncf

    rows = list(feeds(request))
    if not rows:
        raise ConversionError(
            "int8 with calibrated activations needs samples, and there are none.",
            remedy="Give the rule samples, log an input example, or ask for quantization=weight_only.",
        )
    attention = any(operation.get_type_name() == "Softmax" for operation in model.get_ordered_ops())
    made = nncf.quantize(
        model,
        nncf.Dataset(rows),
        # Symmetric weights, asymmetric activations: most activations but ReLU's are not centred on 0.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if attention else None,
    )
    return made, (f"Calibrated on {len(rows)} {'sample' if len(rows) == 1 else 'samples'}.",)


def feeds(request: ConversionRequest) -> Iterator[dict[str, Array]]:
    """Cut the calibration rows into calls: one row where the batch is open, else as many as the model takes."""
    specs = request.interface.inputs
    if not request.calibration:
        return
    for position in range(MOST_SAMPLES):
        parts = {spec.name: _part(spec, request.calibration[spec.name], position) for spec in specs}
        if any(part is None for part in parts.values()):
            return
        yield {name: part for name, part in parts.items() if part is not None}


def _part(spec: TensorSpec, rows: Array, position: int) -> Array | None:
    if not spec.shape or rows.ndim == 0:
        return np.array(rows)
    size = spec.shape[0] if isinstance(spec.shape[0], int) else 1
    part = rows[position * size : (position + 1) * size]
    return np.array(part) if len(part) == size else None
