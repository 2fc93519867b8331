"""What a `.tflite` file holds: tensors with a buffer, operators, metadata.

Source: the schema in `ai_edge_litert.schema_py_generated`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array, Held, Inside
from registry_export_plugins._tensorflow.lite_runner import operator_names

_DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BFLOAT16": "bfloat16", "INT2": "int2",
    "INT4": "int4", "UINT4": "uint4", "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "UINT16": "uint16",
    "INT32": "int32", "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64", "BOOL": "bool", "STRING": "string",
    "COMPLEX64": "complex64", "COMPLEX128": "complex128",
}  # fmt: skip
OLDEST_RUNTIME = "min_runtime_version"
"""A metadata entry in which TensorFlow's converter notes the oldest runtime that has all the operators."""


def inside(path: Path) -> Inside:
    """Read a file's constant tensors, operators and words.

    Raises:
        VerificationError: It is no flatbuffer of TensorFlow Lite.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(path.read_bytes())
    if data[4:8] != b"TFL3":
        raise VerificationError(f"{path.name} is no TensorFlow Lite file: its identifier is {bytes(data[4:8])!r}.")
    model = schema.Model.GetRootAsModel(data, 0)
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    named = operator_names(model)
    counts = Counter(
        named[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    )
    return Inside(_tensors(model, graphs, data), counts, _metadata(model, data))


def metadata_of(path: Path) -> dict[str, str]:
    """Read a file's description and the oldest runtime that its converter noted."""
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(path.read_bytes())
    return _metadata(schema.Model.GetRootAsModel(data, 0), data)


def _tensors(model: Any, graphs: list[Any], data: bytearray) -> Iterator[Held]:
    from ai_edge_litert import schema_py_generated as schema

    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    for number, graph in enumerate(graphs):
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            content = _content(model.Buffers(tensor.Buffer()), data)
            if not len(content):
                continue
            name = (tensor.Name() or b"").decode(errors="replace") or f"tensor {index}"
            name = name if number == 0 else f"graph {number}: {name}"
            dtype = _DTYPES.get(types.get(tensor.Type(), ""), "unknown")
            shape = tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))
            first = seen.setdefault((tensor.Buffer(), shape), name)
            value = partial(_array, content, dtype, shape) if _is_plain(dtype, shape, content) else None
            yield Held(name, value, shape, dtype, len(content), "" if first == name else first)


def _content(buffer: Any, data: bytearray) -> memoryview:
    """Return a buffer's bytes: inside of the flatbuffer, or behind it where the file is larger than one can be."""
    if buffer.DataLength():
        return memoryview(buffer.DataAsNumpy())
    offset, size = (buffer.Offset(), buffer.Size()) if hasattr(buffer, "Offset") else (0, 0)
    return memoryview(data)[offset : offset + size] if offset > 1 else memoryview(b"")


def _is_plain(dtype: str, shape: tuple[int, ...], content: memoryview) -> bool:
    """Say whether the bytes are the elements: sparse tensors and those of less than a byte are packed."""
    if dtype in ("string", "unknown", "int2", "int4", "uint4"):
        return False
    return math.prod(shape) * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize) == len(content)


def _array(content: memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape)


def _metadata(model: Any, data: bytearray) -> dict[str, str]:
    found = {"description": (model.Description() or b"").decode(errors="replace")}
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        name = (entry.Name() or b"").decode(errors="replace")
        if name == OLDEST_RUNTIME:
            found[name] = bytes(_content(model.Buffers(entry.Buffer()), data)).rstrip(b"\0").decode(errors="replace")
    return {name: text for name, text in found.items() if text}
