"""What a `.pte` file holds: constants of the portable kernels and of XNNPACK's graphs, calls and nodes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array, Held, Inside
from registry_export_plugins._executorch.files import xnnpack_text

_XNNPACK = "XnnpackBackend"
_DTYPES = {
    "BYTE": "uint8", "CHAR": "int8", "SHORT": "int16", "INT": "int32", "LONG": "int64", "HALF": "float16",
    "FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool", "BFLOAT16": "bfloat16",
}  # fmt: skip
_XNN_DTYPES = {"fp32": "float32", "fp16": "float16", "int32": "int32", "qint8": "int8", "quint8": "uint8",
               "qint32": "int32", "qcint8": "int8", "qcint32": "int32", "bf16": "bfloat16"}  # fmt: skip
_BARE = re.compile(r"(?<=[:\[,\s])(-?inf|nan)(?=[,\]\s}])")


def inside(path: Path) -> Inside:
    """Read a program's constants, portable calls and XNNPACK's nodes.

    Raises:
        VerificationError: It is no ExecuTorch program.
    """
    content = path.read_bytes()
    if not content[4:8].startswith(b"ET"):
        raise VerificationError(f"{path.name} is no ExecuTorch program: its identifier is {content[4:8]!r}.")
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(content)
    program = getattr(file, "program", file)
    graphs, closed = _xnnpack_graphs(program)
    counts: Counter[str] = Counter()
    for plan in program.execution_plan:
        if plan.name == "forward":
            counts.update(_calls(plan))
    for graph in graphs:
        counts.update(f"{_XNNPACK}: {node.get('xnode_union_type', '?')}" for node in graph.document.get("xnodes", ()))
    named = getattr(file, "named_data", None)
    tensors = (*_portable(program), *(held for graph in graphs for held in graph.constants(named)))
    unsaid = (f"What {', '.join(closed)} made of its part is in a form of its own.",) if closed else ()
    names = "Names: a program keeps none of its weights'; they are numbered here."
    return Inside(tensors, counts, {"methods": ", ".join(p.name for p in program.execution_plan)}, (*unsaid, names))


def _calls(plan: Any) -> Iterator[str]:
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if hasattr(call, "op_index"):
                operator = plan.operators[call.op_index]
                yield f"{operator.name}.{operator.overload}" if operator.overload else operator.name


def _portable(program: Any) -> Iterator[Held]:
    """Yield the constants that the portable kernels read."""
    for plan in program.execution_plan:
        for index, value in enumerate(plan.values if plan.name == "forward" else ()):
            tensor = value.val
            place, shape = getattr(tensor, "data_buffer_idx", 0), getattr(tensor, "sizes", None)
            if place <= 0 or not shape or place >= len(program.constant_buffer):
                continue
            data = bytes(program.constant_buffer[place].storage)
            dtype = _DTYPES.get(tensor.scalar_type.name, tensor.scalar_type.name.lower())
            yield _held(f"value {index}", tuple(shape), dtype, data)


def _held(name: str, shape: tuple[int, ...], dtype: str, data: bytes) -> Held:
    wide = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize if dtype in _DTYPES.values() else 0
    size = math.prod(shape) * wide
    plain = wide and len(data) >= size
    return Held(name, partial(_array, data, shape, dtype) if plain else None, shape, dtype, size or len(data))


def _array(data: bytes, shape: tuple[int, ...], dtype: str) -> Array:
    count = math.prod(shape)
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2", count).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, dtype, count).reshape(shape)


@dataclass(frozen=True)
class _Graph:
    """One of XNNPACK's graphs, as its schema says it, with the bytes of its constants."""

    number: int
    document: Mapping[str, Any]
    data: bytes

    def constants(self, named: Any) -> Iterator[Held]:
        """Yield its constants, in the order of its values."""
        places = self.document.get("constant_data", [])
        for value in self.document.get("xvalues", ()):
            tensor = value.get("xvalue_union", {})
            tensor = tensor.get("tensor_value", tensor)
            index = tensor.get("constant_buffer_idx", 0)
            if not 0 < index < len(places):
                continue
            shape = tuple(tensor.get("dims", ()))
            kind = str(tensor.get("datatype", "")).removeprefix("xnn_datatype_")
            name = f"{_XNNPACK} {self.number}: value {tensor.get('id_out', 0)}"
            yield _held(name, shape, _XNN_DTYPES.get(kind, kind), self._bytes(places[index], named))

    def _bytes(self, place: Mapping[str, Any], named: Any) -> bytes:
        key = place.get("named_key", "")
        if key:
            entry = named.pte_data.get(key) if named is not None else None
            return bytes(named.buffers[entry.buffer_index]) if entry is not None else b""
        begin = place.get("offset", 0)
        return self.data[begin : begin + place.get("size", 0)]


def _xnnpack_graphs(program: Any) -> tuple[list[_Graph], list[str]]:
    """Read XNNPACK's graphs; return the names of the other backends too, whose parts only they read."""
    from executorch.exir._serialize._program import DataLocation

    graphs: list[_Graph] = []
    closed: list[str] = []
    for plan in program.execution_plan:
        for delegate in plan.delegates:
            if delegate.id == _XNNPACK and delegate.processed.location == DataLocation.INLINE:
                blob = bytes(program.backend_delegate_data[delegate.processed.index].data)
                graphs.append(_graph(blob, len(graphs)))
            else:
                closed.append(delegate.id)
    return graphs, sorted(set(closed))


def _graph(blob: bytes, number: int) -> _Graph:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader

    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    data = blob[header.constant_data_offset : header.constant_data_offset + header.constant_data_size]
    return _Graph(number, json.loads(_BARE.sub(_json_number, xnnpack_text(blob))), data)


def _json_number(found: re.Match[str]) -> str:
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[found[1]]
