"""What a `.pte` file says of itself.

A program names neither its inputs nor the axes that vary. Both stand in a constant method of it, which
any ExecuTorch runtime can call: `interface`, without arguments, returns a JSON text.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import VerificationError

METHOD = "interface"
_FORWARD = "forward"
_IDENTIFIER = slice(4, 8)
_INT8 = ("xnn_datatype_qint8", "xnn_datatype_qcint8", "xnn_datatype_qdint8", "xnn_datatype_qpint8")
_QUANTIZED = "quantized_decomposed::"
_HALVES = {"fp16": ("xnn_datatype_fp16", "HALF"), "bf16": ("xnn_datatype_bf16", "BFLOAT16")}


def to_text(interface: Interface) -> str:
    """Write an interface as JSON; the inverse of `from_text`."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape or ())} for s in specs]

    return json.dumps({"inputs": tensors(interface.inputs), "outputs": tensors(interface.outputs)})


def from_text(text: str) -> Interface:
    """Read what `to_text` wrote."""

    def tensors(values: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(v["name"], v["dtype"], tuple(v["shape"])) for v in values)

    values = json.loads(text)
    return Interface(tensors(values["inputs"]), tensors(values["outputs"]))


@dataclass(frozen=True)
class Contents:
    """What was read from a file.

    Attributes:
        schema: The version of the file's schema: 12, of the identifier `ET12`.
        interface: Inputs and outputs.
        bounds: The largest size of each dynamic dimension of the inputs, by the dimension's name.
        delegates: Parts that run on a backend, by the backend's name.
        operators: Operators that run on the portable kernels.
        precision: That of most weights and constants: `fp32`, `fp16`, `bf16` or `int8`.
    """

    schema: str
    interface: Interface
    bounds: dict[str, int]
    delegates: dict[str, int]
    operators: tuple[str, ...]
    precision: str


def read(path: Path) -> Contents:
    """Read a `.pte` file's own account of itself.

    Raises:
        VerificationError: It is no ExecuTorch program, or says nothing of its interface.
    """
    content = path.read_bytes()
    identifier = content[_IDENTIFIER]
    if not identifier.startswith(b"ET"):
        raise VerificationError(f"{path.name} is no ExecuTorch program: its identifier is {identifier!r}.")
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(content)
    plans = {plan.name: plan for plan in getattr(file, "program", file).execution_plan}
    if METHOD not in plans or _FORWARD not in plans:
        raise VerificationError(f"{path.name} lacks the methods {_FORWARD} and {METHOD}.")
    described, plan = plans[METHOD], plans[_FORWARD]
    interface = from_text(described.values[described.outputs[0]].val.string_val)
    program = getattr(file, "program", file)
    operators = tuple(sorted({operator.name for operator in plan.operators}))
    return Contents(
        identifier.decode().removeprefix("ET"),
        interface,
        _bounds(plan, interface),
        dict(Counter(delegate.id for delegate in plan.delegates)),
        operators,
        _precision([*_types(plan), *_delegated_types(program)], operators),
    )


def _bounds(plan: Any, interface: Interface) -> dict[str, int]:
    """Read the sizes that memory was planned for."""
    return {
        dimension: size
        for spec, index in zip(interface.inputs, plan.inputs, strict=True)
        for dimension, size in zip(spec.shape or (), plan.values[index].val.sizes, strict=True)
        if isinstance(dimension, str)
    }


def _types(plan: Any) -> Iterator[str]:
    """Yield the element type of each constant tensor that the portable kernels use."""
    for value in plan.values:
        if getattr(value.val, "data_buffer_idx", 0) > 0 and getattr(value.val, "sizes", None):
            yield value.val.scalar_type.name


def _delegated_types(program: Any) -> Iterator[str]:
    """Yield the element type of each value in XNNPACK's own graphs, read with ExecuTorch's copy of their schema."""
    from executorch.exir._serialize._program import DataLocation

    for plan in program.execution_plan:
        for delegate in plan.delegates:
            if delegate.id == "XnnpackBackend" and delegate.processed.location == DataLocation.INLINE:
                yield from _xnnpack_types(bytes(program.backend_delegate_data[delegate.processed.index].data))


def _xnnpack_types(blob: bytes) -> Iterator[str]:
    yield from re.findall(r'"datatype":\s*"(\w+)"', xnnpack_text(blob))


def xnnpack_text(blob: bytes) -> str:
    """Write out one of XNNPACK's graphs with ExecuTorch's copy of their schema; it is JSON but for bare infinities."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    schema = (files("executorch.backends.xnnpack.serialization") / "schema.fbs").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(schema)
        (folder / "graph.bin").write_bytes(blob[start : start + header.flatbuffer_size])
        _flatc_decompile(str(folder), str(folder / "schema.fbs"), str(folder / "graph.bin"))
        return (folder / "graph.json").read_text()


def _precision(types: list[str], operators: tuple[str, ...]) -> str:
    """Name the precision; 8-bit integers that no operator dequantizes are the model's own."""
    dequantized = any(name.startswith(_QUANTIZED) for name in operators)
    if any(name in _INT8 or (dequantized and name == "CHAR") for name in types):
        return "int8"
    return next((half for half, names in _HALVES.items() if any(name in names for name in types)), "fp32")
