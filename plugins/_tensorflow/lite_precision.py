"""fp16 and int8 TensorFlow Lite files, made of the float function or of the float file that is known to be right.

fp16 holds the weights in half precision and computes, takes and returns floats. int8 is made by the
AI Edge Quantizer from the float file: it needs no second conversion and does not abort the process, as
TensorFlow's own quantizer does on some transformers. Static quantization of a whole model often ruins its
normalizations, so narrower sets of operators are tried until the numbers on the samples are good enough.

Sources: https://github.com/google-ai-edge/ai-edge-quantizer,
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, Interface, OptionValue
from registry_export.errors import ConversionError, RegistryExportError
from registry_export.format import ConversionRequest
from registry_export_plugins._tensorflow.functions import TensorFlowFunction
from registry_export_plugins._tensorflow.lite_recipes import casting, dynamic, quantized, static_recipes, weight_only
from registry_export_plugins._tensorflow.lite_rows import calibration_rows, signal_to_noise
from registry_export_plugins._tensorflow.lite_runner import LiteRTRunner, describe

ENOUGH_DB = 20.0
"""Signal to noise, per output, at which no narrower set of operators is tried."""


@dataclass(frozen=True)
class Precise:
    """A file in the precision asked for, and what is told of how it was made."""

    content: bytes
    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()


def wanted(options: Mapping[str, OptionValue]) -> tuple[str, str, bool]:
    """Return the options' precision, quantization, and whether inputs and outputs are to be integers."""
    return (
        str(options.get("precision") or "fp32"),
        str(options.get("quantization") or "static"),
        bool(options.get("integer_io")),
    )


def calibrates(options: Mapping[str, OptionValue]) -> bool:
    """Whether these options need real samples: static int8 does."""
    precision, quantization, _ = wanted(options)
    return precision == "int8" and quantization == "static"


def refusal(options: Mapping[str, OptionValue]) -> str:
    """Say why no conversion serves these options; empty where one does."""
    return "integer_io needs precision int8 with static quantization" if _misfit(options) else ""


def _misfit(options: Mapping[str, OptionValue]) -> bool:
    return bool(options.get("integer_io")) and not calibrates(options)


def with_precision(
    content: bytes, request: ConversionRequest, interface: Interface, half: Callable[[], bytes] | None = None
) -> Precise:
    """Give a float file the precision asked for.

    Args:
        content: A float `.tflite` file that runs.
        request: Options, calibration samples and a private folder.
        interface: The names by which samples are found, in the file's order.
        half: Converts the model again with weights in half precision, where its converter can.

    Raises:
        ConversionError: Nothing in the model can be held so, there are no samples, or every way failed.
    """
    precision, quantization, integer_io = wanted(request.options)
    if precision == "fp32":
        return Precise(content)
    if precision == "fp16":
        again = [("half-precision weights by the converter", half)] if half is not None else []
        cast = ("half-precision weights by the AI Edge Quantizer", lambda: quantized(content, casting(), []))
        return _first([*again, cast], request, interface)
    if quantization != "static":
        recipe = dynamic if quantization == "dynamic" else weight_only
        return _first([(f"int8 {quantization}", lambda: quantized(content, recipe(), []))], request, interface)
    return _static(content, request, interface, integer_io)


def _first(
    ways: Sequence[tuple[str, Callable[[], bytes]]], request: ConversionRequest, interface: Interface
) -> Precise:
    """Return the first file that is in the precision asked for and runs."""
    attempts: list[Attempt] = []
    errors: list[RegistryExportError] = []
    for name, make in ways:
        try:
            made = make()
            checked(made, request, interface)
        except RegistryExportError as error:
            attempts.append(Attempt(name, error.message))
            errors.append(error)
            continue
        return Precise(made, (*attempts, Attempt(name)))
    raise errors[0]


def checked(content: bytes, request: ConversionRequest, interface: Interface) -> LiteRTRunner:
    """Write a file to the private folder, and check that it is in the precision asked for and loads.

    Raises:
        ConversionError: Its weights are not in that precision.
        VerificationError: It does not load.
    """
    path = request.work / "precise.tflite"
    path.write_bytes(content)
    precision = wanted(request.options)[0]
    found = describe(path).precision
    if found != precision:
        raise ConversionError(
            f"Nothing in this model can be held in {precision}: the file came out in {found}.",
            remedy="Export it without the option precision.",
        )
    return LiteRTRunner(path, interface)


def _static(content: bytes, request: ConversionRequest, interface: Interface, integer_io: bool) -> Precise:
    """Quantize ever narrower sets of operators until the numbers on the samples are good; keep the best."""
    path = request.work / "float.tflite"
    path.write_bytes(content)
    rows = calibration_rows(path, interface, request.calibration)
    attempts: list[Attempt] = []
    errors: list[RegistryExportError] = []
    tried: list[bytes] = []
    best: tuple[float, bytes, str] | None = None
    for name, recipe in static_recipes(integer_io):
        try:
            made = quantized(content, recipe, rows)
            if made in tried:
                continue
            tried.append(made)
            decibels = signal_to_noise(path, checked(made, request, interface), interface, rows)
        except RegistryExportError as error:
            attempts.append(Attempt(name, error.message))
            errors.append(error)
            continue
        if best is None or decibels > best[0]:
            best = decibels, made, name
        if decibels >= ENOUGH_DB:
            break
        attempts.append(Attempt(name, f"{decibels:.1f} dB of signal to noise on the samples"))
    if best is None:
        raise errors[0]
    decibels, made, name = best
    if attempts and attempts[-1].way == name:
        attempts.pop()
    attempts.append(Attempt(name))
    note = f"Calibrated on {len(rows)} rows; {name}; {decibels:.1f} dB of signal to noise on the samples."
    return Precise(made, tuple(attempts), (note,))


def by_tensorflow(
    make: Callable[[Callable[[Any], None]], bytes], function: TensorFlowFunction, path: Path, request: ConversionRequest
) -> Precise:
    """Let TensorFlow's converter quantize, in one go with the conversion; its quantizer may end the process.

    Args:
        make: Converts the function with a converter that was given the settings here.
        function: What is converted.
        path: The float file, by which the samples are cut.
        request: Options and calibration samples.

    Raises:
        ConversionError: The converter refused, or there are no samples.
    """
    precision, quantization, integer_io = wanted(request.options)
    static = precision == "int8" and quantization == "static"
    rows = calibration_rows(path, function.interface, request.calibration) if static else []

    def settings(converter: Any) -> None:
        import tensorflow as tf

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        if rows:
            converter.representative_dataset = lambda: iter([dict(row) for row in rows])
        if integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8

    content = make(settings)
    checked(content, request, function.interface)
    return Precise(content, (Attempt("TensorFlow's quantizer"),))
