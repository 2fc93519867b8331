"""What a `.tflite` file computes: every tensor of its main graph, kept by an interpreter that delegates nothing.

Source: https://ai.google.dev/edge/api/tflite/python/tf/lite/Interpreter
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate

_CALL = "PartitionedCall/"


def watched(path: Path, signature: str, arguments: Mapping[str, Array]) -> Iterator[Intermediate]:
    """Run a file once and yield its tensors; quantized ones as the floats that they stand for.

    Raises:
        VerificationError: A kernel failed.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    runner = interpreter.get_signature_runner(signature)
    try:
        runner(**arguments)
    except (RuntimeError, ValueError) as error:
        raise VerificationError(f"LiteRT could not show what is inside: {error}") from error
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    live = {detail["index"] for detail in runner.get_input_details().values()}
    names: dict[int, str] = {}
    for operator in interpreter._get_ops_details():
        reads = [int(index) for index in operator["inputs"] if int(index) in live]
        if not reads:
            continue
        after = tuple(names[index] for index in reads if index in names)
        for index in map(int, operator["outputs"]):
            live.add(index)
            detail = details.get(index)
            if detail is None:
                continue
            names[index] = f"{_own(detail['name'])} (tensor {index})"
            yield Intermediate(names[index], _value(interpreter, detail), "", operator["op_name"], after)


def _own(name: str) -> str:
    """Cut off the calls that every tensor of a converted SavedModel stands in."""
    while name.startswith(_CALL):
        name = name.removeprefix(_CALL)
    return name


def _value(interpreter: Any, detail: Mapping[str, Any]) -> Array | None:
    parameters = detail["quantization_parameters"]
    kind = np.dtype(detail["dtype"]).kind if detail["dtype"] is not np.bytes_ else "S"
    if kind != "f" and not (kind in "iu" and len(parameters["scales"])):
        return None
    try:
        array = np.array(interpreter.get_tensor(detail["index"]))
    except ValueError:  # of a branch that was not taken
        return None
    if kind == "f":
        return array
    shape = [1] * array.ndim
    if len(parameters["scales"]) > 1:
        shape[parameters["quantized_dimension"]] = -1
    zeros = parameters["zero_points"].reshape(shape).astype(np.float64)
    return np.asarray((array - zeros) * parameters["scales"].reshape(shape))
