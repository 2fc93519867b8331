"""The ways into OpenVINO, each ending in one .xml with its .bin.

Sources: https://docs.openvino.ai/2025/openvino-workflow/model-preparation/convert-model-to-ir.html,
https://docs.openvino.ai/2025/openvino-workflow/model-preparation/conversion-parameters.html
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._openvino.names import give_names
from registry_export_plugins._openvino.quantize import quantized
from registry_export_plugins._openvino.runner import reason

_CONVERTER = "openvino.convert_model"
_NUMBERED = "input_"


def from_onnx(model: Path, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert an ONNX file; one that is refused is tried again after onnxslim has folded what is constant in it."""
    try:
        converted = _converted(str(model))
        attempts: tuple[Attempt, ...] = (Attempt(_CONVERTER),)
    except ConversionError as error:
        converted = _converted_slim(model, request.work)
        if converted is None:
            raise  # the first refusal is about the model as it came
        attempts = (Attempt(_CONVERTER, error.message), Attempt(f"{_CONVERTER} after onnxslim"))
    return _finish(converted, output, request, attempts)


def _converted_slim(model: Path, work: Path) -> Any:
    """Convert a simplified copy of an ONNX file; None where it cannot be simplified, or is refused as well."""
    slimmed = _slimmed(model, work)
    try:
        return None if slimmed is None else _converted(str(slimmed))
    except ConversionError:
        return None


def _slimmed(model: Path, work: Path) -> Path | None:
    """Simplify a copy of an ONNX file; None where onnxslim is not there or fails itself."""
    try:
        import onnxslim
    except ImportError:
        return None
    slimmed = work / "slim.onnx"
    try:
        onnxslim.slim(str(model), str(slimmed))
    except Exception:  # noqa: BLE001  onnxslim raises whatever a pattern or a shape inference raises; the caller has the cause
        return None
    return slimmed if slimmed.is_file() else None


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a PyTorch module, traced on the request's samples."""
    import torch

    from registry_export_plugins._torch.export import trace_inputs

    samples = trace_inputs(request)
    with torch.no_grad():
        converted = _converted(model, example_input=samples, input=[_shape(spec) for spec in request.interface.inputs])
    return _finish(converted, output, request, (Attempt(f"{_CONVERTER} of the PyTorch module"),))


def from_tf_function(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a TensorFlow function; its inputs are numbered on the way, and its outputs keep their positions."""
    import tensorflow as tf

    from registry_export_plugins._tensorflow.functions import from_spec, requested

    asked = requested(model.interface.inputs, request.interface)
    specs = [from_spec(spec, f"{_NUMBERED}{i}") for i, spec in enumerate(asked)]

    def serve(*tensors: Any) -> list[Any]:
        return [tf.identity(tensor) for tensor in model(*tensors)]

    converted = _converted(tf.function(serve, input_signature=specs, autograph=False))
    for port in converted.inputs:
        numbers = [name.removeprefix(_NUMBERED) for name in port.get_names() if name.startswith(_NUMBERED)]
        if numbers and numbers[0].isdigit():
            port.get_tensor().set_names({asked[int(numbers[0])].name})
    return _finish(converted, output, request, (Attempt(f"{_CONVERTER} of the TensorFlow function"),))


def from_keras_model(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a Keras model, traced into a TensorFlow function first."""
    from registry_export_plugins._tensorflow.keras import to_function

    return from_tf_function(to_function(model, request.interface), output, request)


def _shape(spec: TensorSpec) -> Any:
    import openvino

    if spec.shape is None:
        return openvino.PartialShape.dynamic()
    return openvino.PartialShape([size if isinstance(size, int) else -1 for size in spec.shape])


def _converted(model: Any, **arguments: Any) -> Any:
    """Run the converter; operators that it lacks are named with the nodes of an ONNX file that they stand in.

    Raises:
        UnsupportedModelError: OpenVINO has no form of an operator; names it.
        ConversionError: It refuses the model for another reason.
    """
    import openvino

    try:
        with _log_kept():
            return openvino.convert_model(model, **arguments)
    except Exception as error:  # the errors of four front ends and of the frameworks behind them
        told = reason(error)
        lacking = unsupported_operators(str(error))
        if lacking:
            places = _places(model, lacking) if isinstance(model, str) else {}
            listed = [f"{name} ({places[name]})" if places.get(name) else name for name in lacking]
            raise UnsupportedModelError(
                f"OpenVINO has no form of these operators: {', '.join(listed)}.",
                remedy="Replace them in the model, or export the model to onnx.",
            ) from error
        raise ConversionError(f"OpenVINO refused the model: {told}") from error


@contextlib.contextmanager
def _log_kept() -> Iterator[None]:
    """Leave the process its log: a model that is refused costs it all warnings, whoever would write them."""
    root = logging.getLogger()
    level, filters, handlers = root.level, [*root.filters], [(handler, handler.level) for handler in root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, [handler for handler, _ in handlers]
        for handler, heard in handlers:
            handler.setLevel(heard)


def unsupported_operators(message: str) -> tuple[str, ...]:
    """Read the operators out of OpenVINO's list of those that it has no conversion rule for."""
    found = re.findall(r"No conversion rule found for operations?: (.+)", message)
    names = [re.sub(r"-\d+$", "", name.strip(" .,")) for line in found for name in line.split(",")]
    return tuple(dict.fromkeys(filter(None, names)))


def _places(path: str, operators: Sequence[str]) -> dict[str, str]:
    """Return the names of the nodes of each operator in an ONNX file, three at most."""
    from registry_export_plugins._onnx.files import read
    from registry_export_plugins._onnx.opsets import graphs_of

    found: dict[str, list[str]] = {}
    for graph in graphs_of(read(Path(path), weights=False)):
        for node in graph.node:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            if operator in operators and node.name:
                found.setdefault(operator, []).append(node.name)
    return {operator: ", ".join(names[:3]) for operator, names in found.items()}


def _finish(model: Any, output: Path, request: ConversionRequest, attempts: tuple[Attempt, ...]) -> ConversionResult:
    """Name a converted model, quantise it when asked to, and write it."""
    import openvino

    named = give_names(model, request.interface)
    precision = request.options.get("precision")
    notes: tuple[str, ...] = ()
    if precision == "int8":
        named, notes = quantized(named, request)
        named = give_names(named, request.interface)
    try:
        openvino.save_model(named, str(output), compress_to_fp16=precision == "fp16")
    except RuntimeError as error:
        raise ConversionError(f"OpenVINO could not write the model: {reason(error)}") from error
    return ConversionResult(attempts, notes)
