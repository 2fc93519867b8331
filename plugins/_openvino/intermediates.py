"""What an OpenVINO model computes: its operations' results, as further results of the model as it was read.

Source: https://docs.openvino.ai/2025/api/ie_python_api/_autosummary/openvino.Model.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate

_FIRST = 32
_MOST_BYTES = 256_000_000
_MOST_AT_ONCE = 1024
_SILENT = frozenset({"Result", "Parameter", "Constant", "Assign", "ReadValue", "Sink"})
_FLOATS = frozenset({"f64", "f32", "f16"})
_SCOPE = "__module."


def watched(read: Callable[[], Any], arrays: Sequence[Array]) -> Iterator[Intermediate]:
    """Run a model with its operations' results as outputs, as many at a time as memory holds.

    Args:
        read: Reads the model anew: one whose results were added to is of no more use.
        arrays: The inputs, in order.
    """
    count = sum(1 for _ in _live(read()))
    start, several = 0, _FIRST
    while start < count:
        model = read()
        part = list(_live(model))[start : start + several]
        ports = [port for operation, _ in part for port in operation.outputs() if _is_float(port)]
        results = iter(_run(model, ports, arrays))
        size = 0
        for operation, after in part:
            for port in operation.outputs():
                array = next(results) if _is_float(port) else None
                size += array.nbytes if array is not None else 0
                name = operation.get_friendly_name()
                yield Intermediate(_name(port), array, _module(name), operation.get_type_name(), after)
        start += several
        several = max(1, min(_MOST_AT_ONCE, 2 * several, int(several * _MOST_BYTES / max(size, 1))))


def _live(model: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the operations that depend on the inputs, each with the results that it reads."""
    live: set[str] = {_name(port) for parameter in model.get_parameters() for port in parameter.outputs()}
    given = set(live)
    for operation in model.get_ordered_ops():
        reads = [_name(value) for value in operation.input_values()]
        reads = [name for name in reads if name in live]
        if reads and operation.get_type_name() not in _SILENT:
            live.update(_name(port) for port in operation.outputs())
            yield operation, tuple(name for name in reads if name not in given)


def _name(port: Any) -> str:
    index = port.get_index()
    name = str(port.get_node().get_friendly_name())
    return f"{name}.{index}" if index else name


def _is_float(port: Any) -> bool:
    return port.get_element_type().get_type_name() in _FLOATS


def _run(model: Any, ports: Sequence[Any], arrays: Sequence[Array]) -> list[Array]:
    import openvino
    from openvino import opset13

    first = len(model.outputs)
    model.add_results([opset13.result(port) for port in ports])
    try:
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        results = compiled(dict(enumerate(arrays)), share_inputs=False, share_outputs=False)
    except RuntimeError as error:
        raise VerificationError(f"OpenVINO cannot show what is inside: {str(error)[:300]}") from error
    return [np.array(results[first + i]) for i in range(len(ports))]


def _module(name: str) -> str:
    """Return the path of the PyTorch module that OpenVINO's own frontend names an operation after."""
    return name.removeprefix(_SCOPE).partition("/")[0] if name.startswith(_SCOPE) else ""
