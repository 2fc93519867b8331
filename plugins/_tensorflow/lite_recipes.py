"""Recipes for the AI Edge Quantizer: what is held in which type.

Source: https://github.com/google-ai-edge/ai-edge-quantizer, its recipes as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from registry_export.errors import ConversionError
from registry_export.format import Array

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
_DELICATE = ("MEAN", "SUM", "SUB", "MUL", "DIV", "SQRT", "RSQRT", "SQUARED_DIFFERENCE", "SOFTMAX")
"""What normalizations and attention are made of: small differences of large numbers, and squares of them."""

Recipe = list[dict[str, Any]]


def static_recipes(integer_io: bool) -> list[tuple[str, Recipe]]:
    """The sets of operators that are quantized, the widest first."""
    edges = [] if integer_io else [_no("INPUT"), _no("OUTPUT")]
    edge_entries = [_integers("INPUT"), _integers("OUTPUT")] if integer_io else []
    return [
        ("int8 in every operator", [_integers("*"), *edges]),
        (
            "int8 in every operator but normalizations and softmax",
            [_integers("*"), *(_no(operator) for operator in _DELICATE), *edges],
        ),
        (
            "int8 in convolutions and matrix products",
            [*(_integers(operator) for operator in (*_WEIGHTED, "BATCH_MATMUL")), *edge_entries],
        ),
        (
            "int8 in the layers with weights",
            [*(_integers(operator) for operator in _WEIGHTED), *edge_entries],
        ),
    ]


def _weights(bits: int, kind: str) -> dict[str, Any]:
    return {"num_bits": bits, "symmetric": True, "granularity": "CHANNELWISE", "dtype": kind, "block_size": 0}


def _entry(operation: str, algorithm: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "regex": ".*",
        "operation": operation,
        "algorithm_key": algorithm,
        "op_config": {"skip_checks": False, "min_weight_elements": 0, **config},
    }


def _integers(operation: str) -> dict[str, Any]:
    activations = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT", "block_size": 0}
    return _entry(
        operation,
        "min_max_uniform_quantize",
        {
            "activation_tensor_config": activations,
            "weight_tensor_config": _weights(8, "INT"),
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
        },
    )


def _no(operation: str) -> dict[str, Any]:
    return _entry(operation, "no_quantize", {"compute_precision": "FLOAT", "explicit_dequantize": False})


def dynamic() -> Recipe:
    """int8 weights; activations are quantized when the model runs."""
    config = {"weight_tensor_config": _weights(8, "INT"), "compute_precision": "INTEGER", "explicit_dequantize": False}
    return [_entry("*", "min_max_uniform_quantize", config)]


def weight_only() -> Recipe:
    """int8 weights that are widened before use; the arithmetic stays in floats."""
    config = {"weight_tensor_config": _weights(8, "INT"), "compute_precision": "FLOAT", "explicit_dequantize": True}
    return [_entry("*", "min_max_uniform_quantize", config)]


def casting() -> Recipe:
    """Half-precision weights that are widened before use."""
    config = {"weight_tensor_config": _weights(16, "FLOAT"), "compute_precision": "FLOAT", "explicit_dequantize": True}
    return [_entry("*", "float_casting", config)]


def quantized(content: bytes, recipe: Recipe, rows: Sequence[Mapping[str, Array]]) -> bytes:
    """Run the AI Edge Quantizer on a float file.

    Args:
        content: The `.tflite` file.
        recipe: What is held in which type.
        rows: Calls to calibrate on, arrays by the file's own input names; empty where nothing is calibrated.

    Raises:
        ConversionError: It refused the model.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    (signature,) = list(Interpreter(model_content=content).get_signature_list())[:1]
    try:
        made = quantizer.Quantizer(bytearray(content), recipe)
        ranges = _ranges(made, signature, rows) if rows else None
        result = made.quantize(ranges).quantized_model
    # A stranger's library that walks the graph: whatever it raises is its refusal.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(f"The AI Edge Quantizer refused the model: {type(error).__name__}: {reason}") from error
    if result is None:
        raise ConversionError("The AI Edge Quantizer made no file.")
    return bytes(result)


def _ranges(made: Any, signature: str, rows: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Calibrate call by call and take each tensor's extremes: the quantizer itself averages them, and clips."""
    ranges: dict[str, Any] = {}
    for row in rows:
        for tensor, found in made.calibrate({signature: [dict(row)]}, num_threads=2).items():
            known = ranges.get(tensor)
            ranges[tensor] = (
                {**found, "min": np.minimum(known["min"], found["min"]), "max": np.maximum(known["max"], found["max"])}
                if known is not None and {"min", "max"} <= found.keys()
                else found
            )
    return ranges
