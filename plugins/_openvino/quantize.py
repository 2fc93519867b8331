"""8-bit integers through NNCF: weights and activations, calibrated on samples, or the weights alone.

Sources: https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html,
https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/weight-compression.html
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from registry_export.entities import TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import Array, ConversionRequest
from registry_export_plugins._openvino.runner import precision_of, reason

_ENOUGH_DB = 20.0
"""Signal to noise of the worst row at which no other way is tried; the verdict asks for 15."""
_TRIED_ROWS = 16
_BETWEEN = ("Multiply", "Add", "Subtract", "Divide", "Power", "Sqrt", "ReduceMean", "MVN", "Softmax", "Erf", "Gelu")
"""What stands between the layers with weights: small differences of large numbers, and squares of them."""

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
    expected = _answers(model, rows[:_TRIED_ROWS])
    best: tuple[float, str, Any] | None = None
    for way, settings in _ways(model):
        made = nncf.quantize(model.clone(), nncf.Dataset(rows), subset_size=len(rows), **settings)
        ratio = _worst_db(expected, _answers(made, rows[:_TRIED_ROWS]))
        if best is None or ratio > best[0]:
            best = ratio, way, made
        if ratio >= _ENOUGH_DB:
            break
    assert best is not None
    return best[2], (f"Calibrated on {len(rows)} {'sample' if len(rows) == 1 else 'samples'}, {best[1]}.",)


def _ways(model: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what to ask of NNCF, the usual first."""
    import nncf

    # Symmetric weights, asymmetric activations: most activations but ReLU's are not centred on 0.
    mixed, symmetric = nncf.QuantizationPreset.MIXED, nncf.QuantizationPreset.PERFORMANCE
    if any(operation.get_type_name() == "Softmax" for operation in model.get_ordered_ops()):
        yield "as a transformer", {"preset": mixed, "model_type": nncf.ModelType.TRANSFORMER}
    yield "with asymmetric activations", {"preset": mixed}
    yield "with symmetric activations", {"preset": symmetric}
    scope = nncf.IgnoredScope(types=[*_BETWEEN, "GroupConvolution"], validate=False)
    yield "in layers with weights alone", {"preset": symmetric, "ignored_scope": scope}


def _answers(model: Any, rows: list[dict[str, Array]]) -> list[list[Array]]:
    """Run a model on each row, in float32, as the verification does."""
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [[np.array(value) for value in compiled(row).values()] for row in rows]


def _worst_db(expected: list[list[Array]], actual: list[list[Array]]) -> float:
    """Return the signal-to-noise ratio of the worst row and output of floats; infinite where nothing differs."""
    worst = math.inf
    for wanted, found in zip(chain(*expected), chain(*actual), strict=True):
        if wanted.dtype.kind != "f" or not np.isfinite(wanted).all():
            continue
        signal = float(np.square(wanted, dtype=np.float64).sum())
        noise = float(np.square(found.astype(np.float64) - wanted.astype(np.float64)).sum())
        if not noise <= 0 and signal > 0:
            worst = min(worst, 10 * math.log10(signal / noise) if math.isfinite(noise) else -math.inf)
    return worst


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
