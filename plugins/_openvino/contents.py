"""What an OpenVINO IR holds: constants, operations, what its converter noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.format import Array, Held, Inside
from registry_export_plugins._openvino.runner import read

_NO_OPERATIONS = ("Constant", "Parameter", "Result")
_BODIES = ("Loop", "TensorIterator", "If")
_DTYPES = {"bf16": "bfloat16", "boolean": "bool"}
_FAMILIES = {"f": "float", "i": "int", "u": "uint"}
_DEEPEST = 3


def inside(path: Path) -> Inside:
    """Read constants, operations and run-time information; the weights stay mapped from their file.

    Raises:
        VerificationError: It is no OpenVINO model.
    """
    model = read(path)
    operations = list(_operations(model))
    counts = Counter(operation.get_type_name() for operation in operations)
    for name in _NO_OPERATIONS:
        counts.pop(name, None)
    constants = (one for one in operations if one.get_type_name() == "Constant")
    return Inside(_tensors(constants, model), counts, _metadata(model))


def _operations(model: Any) -> Iterator[Any]:
    for operation in model.get_ordered_ops():
        yield operation
        if operation.get_type_name() in _BODIES:
            for body in _bodies(operation):
                yield from _operations(body)


def _bodies(operation: Any) -> list[Any]:
    names = ("get_then_body", "get_else_body") if operation.get_type_name() == "If" else ("get_function",)
    return [getattr(operation, name)() for name in names if hasattr(operation, name)]


def _tensors(constants: Iterator[Any], model: Any) -> Iterator[Held]:
    del model  # it owns the weights, and must live as long as they are read
    for constant in constants:
        element = str(constant.get_element_type().get_type_name())
        dtype = _DTYPES.get(element) or _FAMILIES.get(element[0], "") + element[1:]
        shape = tuple(int(size) for size in constant.get_output_shape(0))
        size = (int(np.prod(shape, dtype=np.int64)) * constant.get_element_type().bitwidth + 7) // 8
        is_text = element == "string"
        yield Held(constant.get_friendly_name(), None if is_text else partial(_array, constant), shape, dtype, size)


def _array(constant: Any) -> Array:
    element = constant.get_element_type()
    if element.bitwidth < np.dtype(np.uint8).itemsize * 8 or element.get_type_name().startswith(("bf", "f8", "nf")):
        return np.asarray(constant.get_data(dtype=np.float32))
    array: Array = constant.data
    return array


def _metadata(model: Any) -> Mapping[str, str]:
    """Flatten what is kept beside the model: the version of the converter, what it was told, quantisation."""
    found = {"name": model.get_friendly_name()}

    def walk(path: str, held: Any, depth: int) -> None:
        if isinstance(held, dict) and depth < _DEEPEST:
            for key, value in held.items():
                walk(f"{path}.{key}" if path else str(key), value, depth + 1)
        elif path:
            found[path] = str(held.value if hasattr(held, "value") else held)

    walk("", dict(model.get_rt_info().items()), 0)
    return found
