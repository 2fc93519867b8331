"""ONNX in int8, by ONNX Runtime's quantizer; inputs and outputs stay floats.

Dynamic: weights in int8, activations quantized at run time. Tried in this order: matrix products,
convolutions and embeddings; with one scale for each tensor; matrix products alone; recurrent layers, for which
ONNX Runtime has an operator of its own.

Static: QuantizeLinear and DequantizeLinear around what is quantized, with ranges measured on the calibration
rows. Tried in this order, until the samples keep enough signal: the range between minimum and
maximum; weights in seven bits, which cannot saturate on older x86 processors; the range of the
percentile 99.999; matrix products and convolutions alone; ranges by entropy.

The layout `symmetric` is what accelerators accept: zero points of 0, float biases, quantizers around Conv, MatMul
and Gemm alone, and weights kept in floats in front of theirs.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from registry_export.errors import ConversionError
from registry_export.format import Array, Tensors
from registry_export_plugins._onnx.candidates import Taken, Wanted, Way, best_of
from registry_export_plugins._onnx.files import interface_of, precision_of, problem_of_file, read, size_of
from registry_export_plugins._onnx.opsets import first_line, graphs_of, opset_of, too_large

ENOUGH_SIGNAL = 15.0
"""Decibels; what verification asks of int8 too."""
LOWEST_OPSETS = {"static": 13, "dynamic": 11}
"""Static needs scales for each channel, dynamic needs DynamicQuantizeLinear."""

_PRODUCTS = ("Conv", "MatMul", "Gemm")
_ROWS_AT_ONCE = 8
_MOST_ROWS = 512
"""Rows beyond these cost time and memory and no longer move a range."""


def to_int8(path: Path, wanted: Wanted) -> Taken:
    """Quantize a model; see the module's docstring for what is tried.

    Args:
        path: A valid model in fp32.
        wanted: How, calibration rows, samples to try it on, and the folder to work in.

    Raises:
        ConversionError: The opset is too old for it, static quantization has no rows to calibrate on, or no way gave
            a valid file that runs and in which something is quantized.
    """
    opset, lowest = opset_of(read(path, weights=False)), LOWEST_OPSETS[wanted.quantization]
    if opset < lowest:
        raise ConversionError(
            f"{wanted.quantization.capitalize()} int8 needs opset {lowest} or higher; the model is opset {opset}.",
            remedy=f"Ask for opset_version {max(lowest, 17)}.",
        )

    def problem(candidate: Path) -> str:
        return problem_of_file(candidate) or _not_int8(candidate, opset)

    with _private(wanted.work):
        bare = _bare(path, wanted.work / "bare" / path.name)
        ways = _dynamic_ways(bare) if wanted.quantization == "dynamic" else _static_ways(bare, wanted)
        return best_of(ways, path, wanted, ENOUGH_SIGNAL, problem)


def _bare(path: Path, bare: Path) -> Path:
    """Copy a model without what it says of its inner values: the quantizer transposes some, and keeps the old shape."""
    if too_large(size_of(path)):
        return path
    model = read(path)
    for graph in graphs_of(model):
        del graph.value_info[:]
    bare.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(bare))
    return bare


def _not_int8(candidate: Path, opset: int) -> str:
    model = read(candidate, weights=False)
    if opset_of(model) != opset:
        return f"the quantizer returned opset {opset_of(model)} instead of {opset}"
    return "" if precision_of(model) == "int8" else "the model has nothing that could be quantized"


@contextlib.contextmanager
def _private(work: Path) -> Iterator[None]:
    """Keep the quantizer's temporary files in our folder, and its advice about its own options out of the output."""
    before, level = tempfile.tempdir, logging.root.level
    tempfile.tempdir = str(work)
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tempfile.tempdir = before
        logging.root.setLevel(level)


def _dynamic_ways(path: Path) -> Iterator[Way]:
    def way(name: str, operators: Sequence[str], weight: QuantType, channels: bool, note: str = "") -> Way:
        def make(candidate: Path) -> None:
            quantize_dynamic(
                path,
                candidate,
                op_types_to_quantize=list(operators),
                per_channel=channels,
                weight_type=weight,
                use_external_data_format=too_large(size_of(path)),
            )

        return Way(name, make, note)

    # ONNX Runtime's ConvInteger takes unsigned weights only.
    all_of_them, products = ("MatMul", "Gemm", "Conv", "Gather"), ("MatMul", "Gemm")
    yield way("dynamic", all_of_them, QuantType.QInt8, True)
    yield way("dynamic, unsigned weights, one scale for each tensor", all_of_them, QuantType.QUInt8, False)
    yield way("dynamic, matrix products alone", products, QuantType.QInt8, True)
    yield way(
        "dynamic, with recurrent layers",
        ("LSTM", *products),
        QuantType.QInt8,
        False,
        "Its recurrent layers are operators of ONNX Runtime's own: no other runtime takes this file.",
    )


def _static_ways(path: Path, wanted: Wanted) -> Iterator[Way]:
    if not wanted.calibration:
        raise ConversionError(
            "Static int8 measures the ranges of activations, and there are no samples to measure them on.",
            remedy="Give the rule samples, log the model with an input example, or ask for quantization=dynamic.",
        )
    prepared = _prepared(path, wanted.work / "prepared" / path.name)
    method = CalibrationMethod

    def way(name: str, calibration: CalibrationMethod, seven_bits: bool = False, few: bool = False) -> Way:
        settings = _symmetric() if wanted.layout == "symmetric" else _full(few)

        def make(candidate: Path) -> None:
            quantize_static(
                prepared,
                candidate,
                Rows(wanted.calibration, _rows_at_once(path)),
                quant_format=QuantFormat.QDQ,
                calibrate_method=calibration,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=seven_bits,
                use_external_data_format=too_large(size_of(path)),
                **settings,
            )

        return Way(f"static, {name}", make)

    yield way("minimum and maximum", method.MinMax)
    if wanted.layout == "full":
        yield way("minimum and maximum, weights in seven bits", method.MinMax, seven_bits=True)
    yield way("percentile", method.Percentile)
    if wanted.layout == "full":
        yield way("minimum and maximum, products alone", method.MinMax, few=True)
    yield way("entropy", method.Entropy)


def _full(few: bool) -> dict[str, Any]:
    return {
        "activation_type": QuantType.QUInt8,
        "op_types_to_quantize": list(_PRODUCTS) if few else None,
        "extra_options": {"WeightSymmetric": True},
    }


def _symmetric() -> dict[str, Any]:
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "AddQDQPairToWeight": True,
        "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),
    }
    return {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": list(_PRODUCTS),
        "extra_options": options,
    }


def _prepared(path: Path, prepared: Path) -> Path:
    """Fold and fuse what ONNX Runtime folds into standard operators; the model itself where that fails."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared.parent.mkdir(parents=True, exist_ok=True)
    if too_large(size_of(path)):
        return path
    try:
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
    except Exception as error:  # noqa: BLE001  it fails on some transformers; the model goes as it is
        logging.getLogger(__name__).debug("not prepared: %s", first_line(error))
        return path
    standard = all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    return prepared if standard and opset_of(model) == opset_of(read(path, weights=False)) else path


def _rows_at_once(path: Path) -> int:
    """Return the batch that a model has fixed, or a small one."""
    sizes = [spec.shape[0] for spec in interface_of(read(path, weights=False)).inputs if spec.shape]
    return next((size for size in sizes if isinstance(size, int)), _ROWS_AT_ONCE)


class Rows(CalibrationDataReader):
    """Calibration rows, a few at a time.

    Args:
        calibration: Arrays by input name, all rows on axis 0; they may be memory-mapped.
        at_once: Rows in a batch; a last batch with fewer is left out, which a fixed size would refuse.
    """

    def __init__(self, calibration: Tensors, at_once: int = _ROWS_AT_ONCE) -> None:
        self._calibration = calibration
        rows = min((len(array) if array.ndim else 1 for array in calibration.values()), default=0)
        whole = rows - rows % at_once if rows > at_once else rows
        self._starts = iter(range(0, min(whole, _MOST_ROWS), at_once))
        self._at_once, self._rows = at_once, rows

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next rows by input name; None after the last."""
        start = next(self._starts, None)
        if start is None:
            return None
        stop = min(start + self._at_once, self._rows)
        return {
            name: np.ascontiguousarray(array[start:stop] if array.ndim else array)
            for name, array in self._calibration.items()
        }
