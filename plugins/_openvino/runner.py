"""OpenVINO on the CPU as a runner, and what a file says of itself.

Source: https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Description, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._openvino.names import interface_of

_FLOATS = {"f32": "fp32", "f64": "fp32", "f16": "fp16", "bf16": "bf16"}
_QUANTIZED = {"i8", "u8", "i4", "u4"}
_HEAD = 4096
"""Bytes of an .xml within which the version of its format stands."""


class OpenVINORunner:
    """Runs a model on the CPU in float32, for which OpenVINO takes bfloat16 where the CPU has it and nobody objects."""

    def __init__(self, path: Path, interface: Interface) -> None:
        import openvino

        self._path = path
        model = read(path)
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise VerificationError(f"OpenVINO cannot compile the model for the CPU: {reason(error)}") from error
        own = interface_of(model)
        self._interface = Interface(_under(interface.inputs, own.inputs), _under(interface.outputs, own.outputs))
        self._runtime = f"openvino {openvino.__version__.partition('-')[0]}"

    @property
    def interface(self) -> Interface:
        """Inputs and outputs as the file declares them."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self._runtime

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once; inputs and outputs are told apart by their positions, which a file keeps.

        Raises:
            VerificationError: An input is missing or unknown, or OpenVINO fails on them.
        """
        arrays = [np.array(array, order="C") for array in in_order(inputs, self._interface.inputs)]
        try:
            results = self._compiled(dict(enumerate(arrays)), share_inputs=False, share_outputs=False)
        except RuntimeError as error:
            raise VerificationError(f"OpenVINO fails on these inputs: {reason(error)}") from error
        return {spec.name: np.array(results[i]) for i, spec in enumerate(self._interface.outputs)}

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more, unfused, and yield the results of every operation."""
        from registry_export_plugins._openvino.intermediates import watched

        arrays = [np.array(array, order="C") for array in in_order(inputs, self._interface.inputs)]
        return watched(lambda: read(self._path), arrays)


def _under(wanted: tuple[TensorSpec, ...], own: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Give the file's inputs or outputs the names of the interface they were made with, position by position."""
    if len(wanted) != len(own):
        return own
    return tuple(TensorSpec(w.name or o.name, o.dtype, o.shape) for w, o in zip(wanted, own, strict=True))


def read(path: Path) -> Any:
    """Read a model from its .xml and the .bin beside it.

    Raises:
        VerificationError: It is no OpenVINO model, or its weights are not there.
    """
    import openvino

    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise VerificationError(f"{path.name} cannot be read as an OpenVINO model: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return the sentence of an OpenVINO error, without the places in its sources that surround it."""
    place = re.compile(r"^(Exception from |Check '.*' failed at |While validating node|Traceback|\s*$)")
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if not place.match(line)]
    return " ".join(told)[:600].rstrip() or type(error).__name__


def describe(path: Path) -> Description:
    """Read inputs, outputs, precision and the version of the format from a file."""
    model = read(path)
    text = path.read_bytes()
    found = re.search(rb'<net [^>]*version="(\d+)"', text[:_HEAD])
    opsets = [int(number) for number in re.findall(rb'<layer [^>]*version="opset(\d+)"', text)]
    operations = model.get_ordered_ops()
    return Description(
        interface=interface_of(model),
        format_version=found.group(1).decode() if found else None,
        precision=precision_of(operations),
        details={"operations": str(len(operations)), "newest opset": str(max(opsets, default=1))},
    )


def precision_of(operations: list[Any]) -> str:
    """Name the precision: `int8` where weights or activations are quantised, else what most weights are stored in."""
    elements: Counter[str] = Counter()
    for operation in operations:
        if operation.get_type_name() == "FakeQuantize":
            return "int8"
        if operation.get_type_name() == "Constant":
            output = operation.output(0)
            name = str(output.get_element_type().get_type_name())
            if name not in _QUANTIZED or _is_dequantized(output):
                elements[name] += int(np.prod(output.get_shape(), dtype=np.int64))
    floats = {name: count for name, count in elements.items() if name in _FLOATS}
    quantized = sum(count for name, count in elements.items() if name in _QUANTIZED)
    if quantized and quantized >= sum(floats.values()):
        return "int8"
    return _FLOATS[max(floats, key=lambda name: floats[name])] if floats else "fp32"


def _is_dequantized(output: Any) -> bool:
    """Say whether integers are widened and scaled where they are read; others are integers of the model's own."""
    widened = [node.output(0) for node in _readers(output) if node.get_type_name() == "Convert"]
    return any(node.get_type_name() in ("Multiply", "Subtract") for wide in widened for node in _readers(wide))


def _readers(output: Any) -> list[Any]:
    return [port.get_node() for port in output.get_target_inputs()]
