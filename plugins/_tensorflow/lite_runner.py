"""Runs and reads `.tflite` files with LiteRT, without TensorFlow.

Source: https://ai.google.dev/edge/litert/inference, the schema in `ai_edge_litert.schema_py_generated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Description, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate, Tensors
from registry_export_plugins._tensorflow.functions import dimensions
from registry_export_plugins._tensorflow.names import match_keys


class LiteRTRunner:
    """Runs the signature of a file; inputs are resized where the file leaves their size open.

    An integer input that the file holds in fewer bits (litert-torch makes int32 of int64) is cast
    after a check that its values fit; an integer output is widened back to what the interface says.
    Where inputs or outputs are quantized, floats are turned into the file's integers and back with the
    file's own scales.

    Args:
        path: The `.tflite` file.
        interface: The source's names, in order; those of the file where it is empty.

    Attributes:
        inputs: Pairs of an input's name and its key in the file, in order.
    """

    def __init__(self, path: Path, interface: Interface) -> None:
        self._path = path
        self._interpreter = _interpreter(path)
        self._runner = _signature(self._interpreter, path)
        self._details = self._runner.get_input_details()
        results = self._results = self._runner.get_output_details()
        self.inputs = match_keys(tuple(self._details), tuple(spec.name for spec in interface.inputs))
        self._outputs = match_keys(tuple(results), tuple(spec.name for spec in interface.outputs))
        self._declared = {spec.name: spec.dtype for spec in interface.outputs}
        declared_inputs = {spec.name: spec.dtype for spec in interface.inputs}
        self.interface = Interface(
            tuple(_spec(name, self._details[key], declared_inputs.get(name)) for name, key in self.inputs),
            tuple(_spec(name, results[key], self._declared.get(name)) for name, key in self._outputs),
        )
        self.runtime = f"ai-edge-litert {version('ai-edge-litert')}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: A fixed size is not the input's, a value does not fit, or a kernel failed.
        """
        arguments = self._arguments(inputs)
        try:
            results = self._runner(**arguments)
        except (RuntimeError, ValueError) as error:
            raise VerificationError(f"LiteRT could not run the model: {error}") from error
        # The interpreter reuses its buffers for the next call.
        return {
            name: _widened(_dequantized(np.array(results[key]), self._results[key]), self._declared.get(name))
            for name, key in self._outputs
        }

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more and yield the tensors of the file's main graph."""
        from registry_export_plugins._tensorflow.lite_intermediates import watched

        return watched(self._path, _signature_name(self._interpreter, self._path), self._arguments(inputs))

    def _arguments(self, inputs: Tensors) -> dict[str, Array]:
        return {key: _fitting(name, np.asarray(inputs[name]), self._details[key]) for name, key in self.inputs}

    def sizes(self, name: str) -> tuple[int, ...]:
        """Return an input's sizes in the file; -1 where it is open."""
        return _sizes(self._details[dict(self.inputs)[name]])

    def fitting(self, name: str, array: Array) -> Array:
        """Check an array against an input and give it the file's element type."""
        return _fitting(name, array, self._details[dict(self.inputs)[name]])


def describe(path: Path) -> Description:
    """Read names, sizes, element types and the schema version from a file."""
    interpreter = _interpreter(path)
    signature = _signature(interpreter, path)
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    version_, precision, operators = _contents(path)
    return Description(
        interface=Interface(
            tuple(_spec(name, detail, None) for name, detail in inputs.items()),
            tuple(_unsaid(_spec(name, detail, None)) for name, detail in outputs.items()),
        ),
        format_version=str(version_),
        precision=precision,
        details={"operators": ", ".join(operators), **_oldest_runtime(path), **_edges(inputs, outputs)},
    )


def _oldest_runtime(path: Path) -> dict[str, str]:
    """Read which runtime the converter found to be the oldest that has every operator in the version used."""
    from registry_export_plugins._tensorflow.lite_contents import OLDEST_RUNTIME, metadata_of

    oldest = metadata_of(path).get(OLDEST_RUNTIME)
    return {OLDEST_RUNTIME: oldest} if oldest else {}


def _edges(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, str]:
    """Say which inputs and outputs a file holds as integers, and by which scale and zero point."""
    shown = {}
    for name, detail in (*inputs.items(), *outputs.items()):
        if (scale := _scale(detail)) is not None:
            shown[f"quantized {name}"] = (
                f"{np.dtype(detail['dtype']).name}, scale {scale[0]:.6g}, zero point {scale[1]}"
            )
    return shown


def _scale(detail: dict[str, Any]) -> tuple[float, int] | None:
    """Return the scale and zero point of a quantized input or output; None for one that is what it says."""
    scale, zero_point = detail["quantization"]
    return (float(scale), int(zero_point)) if scale and np.dtype(detail["dtype"]).kind in "iu" else None


def _sizes(detail: dict[str, Any]) -> tuple[int, ...]:
    signature = detail.get("shape_signature")
    sizes = detail["shape"] if signature is None or not len(signature) else signature
    return tuple(int(size) for size in sizes)


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        return Interpreter(model_path=str(path))
    except (ValueError, RuntimeError, OSError) as error:
        raise VerificationError(f"LiteRT cannot load {path.name}: {error}") from error


def _signature(interpreter: Any, path: Path) -> Any:
    return interpreter.get_signature_runner(_signature_name(interpreter, path))


def _signature_name(interpreter: Any, path: Path) -> str:
    names = list(interpreter.get_signature_list())
    if not names:
        raise VerificationError(f"{path.name} has no signature, so its inputs and outputs have no names.")
    return "serving_default" if "serving_default" in names else str(names[0])


def _spec(name: str, detail: dict[str, Any], declared: str | None) -> TensorSpec:
    """Describe a tensor as it is fed and read here: a quantized one holds floats, a narrowed integer is wide."""
    found = np.dtype(np.float32) if _scale(detail) else np.dtype(detail["dtype"])
    dtype = declared if declared and found.kind in "iu" and _is_integer(declared) else found.name
    return TensorSpec(name, dtype, dimensions(name, _sizes(detail)))


def _unsaid(output: TensorSpec) -> TensorSpec:
    """Leave open how wide an output's integers are where the file has int32: litert-torch makes that of int64."""
    return TensorSpec(output.name, "" if output.dtype == "int32" else output.dtype, output.shape)


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _fitting(name: str, array: Array, detail: dict[str, Any]) -> Array:
    """Check an input against what the file fixes, and give it the file's element type."""
    sizes = _sizes(detail)
    if len(sizes) != array.ndim or any(size not in (-1, given) for size, given in zip(sizes, array.shape, strict=True)):
        shown = ", ".join("any" if size < 0 else str(size) for size in sizes)
        raise VerificationError(f"The input {name} must have the shape ({shown}); it has {array.shape}.")
    dtype = np.dtype(detail["dtype"])
    if (scale := _scale(detail)) is not None and array.dtype.kind == "f":
        limits = np.iinfo(dtype)
        levels = np.round(array.astype(np.float64) / scale[0]) + scale[1]
        return np.asarray(np.clip(levels, limits.min, limits.max), dtype=dtype, order="C")
    if dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise VerificationError(f"The input {name} holds values that do not fit the file's {dtype.name}.")
    return np.asarray(array, dtype=dtype, order="C")


def _dequantized(array: Array, detail: dict[str, Any]) -> Array:
    if (scale := _scale(detail)) is None:
        return array
    return ((array.astype(np.float32) - scale[1]) * np.float32(scale[0])).astype(np.float32)


def _widened(array: Array, declared: str | None) -> Array:
    if declared and _is_integer(declared) and array.dtype.kind in "iu":
        return array.astype(declared)
    return array


def _contents(path: Path) -> tuple[int, str, list[str]]:
    """Read the schema version, the precision of the weights and the operators' names.

    8-bit integers without a scale are integers of the model's own, and no quantized weights.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(bytearray(path.read_bytes()), 0)
    types = schema.TensorType
    stored: set[int] = set()
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        for t in range(graph.TensorsLength()):
            tensor = graph.Tensors(t)
            scales = tensor.Quantization()
            own = tensor.Type() == types.INT8 and not (scales and scales.ScaleLength())
            if model.Buffers(tensor.Buffer()).DataLength() > 0 and not own:
                stored.add(tensor.Type())
    precision = "int8" if types.INT8 in stored else "fp16" if types.FLOAT16 in stored else "fp32"
    return model.Version(), precision, sorted(set(operator_names(model)))


def operator_names(model: Any) -> list[str]:
    """Return the names of a file's operator codes, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return [_operator(model.OperatorCodes(i), names) for i in range(model.OperatorCodesLength())]


def _operator(code: Any, names: dict[int, str]) -> str:
    custom = code.CustomCode()
    if custom:
        return str(custom.decode())
    return names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
