"""Reads, from an MNN file's bytes, what its runtime does not tell: stored precision, operators, open sizes.

Source: https://github.com/alibaba/MNN/tree/master/schema/default (`MNN.fbs`, `CaffeOp.fbs`, `Tensor.fbs`);
numbers below are the positions of fields in these tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from registry_export.errors import VerificationError
from registry_export_plugins._mnn.operators import OPERATORS

_NET_EXTRA, _NET_OPERATORS, _NET_OUTPUTS, _NET_SUBGRAPHS = 2, 3, 4, 10
_EXTRA_VERSION = 2
_GRAPH_OPERATORS = 4
_OP_KIND, _OP_MAIN, _OP_NAME, _OP_TYPE = 1, 2, 3, 5
_CONVOLUTION_QUANTIZED, _CONVOLUTION_SYMMETRIC = 3, 4
_QUANTIZED_TYPE = 2
_KIND_BLOB, _KIND_CONVOLUTION, _KIND_INPUT = 7, 9, 21
_CONVOLUTION_WEIGHT, _CONVOLUTION_BIAS = 1, 2
_BLOB_DTYPE = 2
_BLOB_VALUES = {3: "uint8", 4: "int8", 5: "int32", 6: "int64", 7: "float32"}
"""The vectors in which a blob may hold its elements, with their types; a half lies in that of bytes."""
_FP16_STORAGE = 3
"""Type of stored weights that are halves; the other types are integers."""
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 6: "int8", 9: "int64", 10: "bool", 19: "float16"}


@dataclass(frozen=True)
class Stored:
    """Numbers that a file stores.

    Attributes:
        name: The operator's, and which of its weights it is.
        shape: Sizes as far as the file tells them, else how many there are.
        dtype: NumPy's name of the elements; empty where they are packed.
        data: The bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: memoryview


class MnnFile:
    """The parts of a file that describe it.

    Raises:
        VerificationError: The bytes are no MNN model.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = bytearray(path.read_bytes())
        try:
            self._net = Table(self._bytes, encode.Get(number_types.UOffsetTFlags.packer_type, self._bytes, 0))
            self._operators = list(_tables(self._net, _NET_OPERATORS))
        except Exception as error:  # a torn buffer fails in whatever read comes first
            raise VerificationError(f"{path.name} cannot be read as an MNN model.") from error
        if not self._operators:
            raise VerificationError(f"{path.name} cannot be read as an MNN model: it holds no operators.")

    @property
    def version(self) -> str:
        """Version of MNN whose converter wrote the file."""
        extra = _table(self._net, _NET_EXTRA)
        return _text(extra, _EXTRA_VERSION) if extra is not None else ""

    @property
    def inputs(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Inputs in order: name -> dtype and sizes; an open size is -1."""
        return {
            _text(operator, _OP_NAME): (_DTYPES.get(_integer(main, 1, 1), "float32"), tuple(_integers(main, 0)))
            for operator, main in _of_kind(self._operators, _KIND_INPUT)
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        place = _place(self._net, _NET_OUTPUTS)
        if not place:
            return ()
        start = self._net.Vector(place)
        return tuple(self._net.String(start + 4 * i).decode() for i in range(self._net.VectorLen(place)))

    @property
    def precision(self) -> str:
        """What the weights of convolutions and matrix products are stored as: `int8`, `fp16` or `fp32`."""
        stored: set[str] = set()
        for _, main in _of_kind(self._all(), _KIND_CONVOLUTION):
            quantized = _table(main, _CONVOLUTION_QUANTIZED)
            if _table(main, _CONVOLUTION_SYMMETRIC) is not None and quantized is None:
                stored.add("int8")
            elif quantized is not None:
                stored.add("fp16" if _integer(quantized, _QUANTIZED_TYPE, 0) == _FP16_STORAGE else "int8")
        return next((name for name in ("int8", "fp16") if name in stored), "fp32")

    @property
    def size(self) -> int:
        """Number of operators, those of loops and branches included."""
        return sum(1 for _ in self._all())

    def operator_types(self) -> Iterator[str]:
        """Yield the type of every operator, inputs and constants left out."""
        for operator in self._all():
            name = OPERATORS.get(number := _integer(operator, _OP_TYPE, 0), f"OpType {number}")
            if name not in ("Input", "Const"):
                yield name

    def stored(self) -> Iterator[Stored]:
        """Yield the weights of convolutions and matrix products, and constants."""
        for operator in self._all():
            main = _table(operator, _OP_MAIN)
            kind, name = _byte(operator, _OP_KIND), _text(operator, _OP_NAME)
            if main is not None and kind == _KIND_BLOB:
                yield from _of_blob(main, name)
            elif main is not None and kind == _KIND_CONVOLUTION:
                yield from _of_convolution(main, name)

    def set_inputs(self, sizes: Mapping[str, Sequence[int]]) -> bytes:
        """Return the file with other sizes of its inputs: the converter writes 1 for an open batch."""
        for operator, main in _of_kind(self._operators, _KIND_INPUT):
            wanted = sizes.get(_text(operator, _OP_NAME), ())
            place = _place(main, 0)
            if place and main.VectorLen(place) == len(wanted):
                start = main.Vector(place)
                for axis, size in enumerate(wanted):
                    _write(self._bytes, start + 4 * axis, size)
        return bytes(self._bytes)

    def _all(self) -> Iterator[Any]:
        yield from self._operators
        for graph in _tables(self._net, _NET_SUBGRAPHS):
            yield from _tables(graph, _GRAPH_OPERATORS)


def _of_blob(blob: Any, name: str) -> Iterator[Stored]:
    shape = tuple(_integers(blob, 0))
    dtype = _DTYPES.get(_integer(blob, _BLOB_DTYPE, 1), "")
    for field, element in _BLOB_VALUES.items():
        data = _vector(blob, field, np.dtype(element).itemsize)
        if len(data):
            is_half = dtype == "float16" and element in ("uint8", "int8")
            yield Stored(name, shape, dtype if is_half else element, data)


def _of_convolution(main: Any, name: str) -> Iterator[Stored]:
    for part, field in (("weight", _CONVOLUTION_WEIGHT), ("bias", _CONVOLUTION_BIAS)):
        data = _vector(main, field, 4)
        if len(data):
            yield Stored(f"{name}.{part}", (len(data) // 4,), "float32", data)
    quantized, symmetric = _table(main, _CONVOLUTION_QUANTIZED), _table(main, _CONVOLUTION_SYMMETRIC)
    if quantized is not None and len(data := _vector(quantized, 0, 1)):
        is_half = _integer(quantized, _QUANTIZED_TYPE, 0) == _FP16_STORAGE
        shape = (len(data) // 2,) if is_half else (len(data),)
        yield Stored(f"{name}.weight", shape, "float16" if is_half else "", data)
    if symmetric is not None and len(data := _vector(symmetric, 0, 1)):
        yield Stored(f"{name}.weight", (len(data),), "int8", data)


def _vector(table: Any, field: int, itemsize: int) -> memoryview:
    """Return the bytes of a vector of numbers, which must lie in the file.

    Raises:
        VerificationError: They do not.
    """
    place = _place(table, field)
    if not place:
        return memoryview(b"")
    start, count = table.Vector(place), table.VectorLen(place)
    if start + count * itemsize > len(table.Bytes):
        raise VerificationError("The MNN file ends inside of a weight.")
    return memoryview(table.Bytes)[start : start + count * itemsize]


def _of_kind(operators: Iterable[Any], kind: int) -> Iterator[tuple[Any, Any]]:
    for operator in operators:
        if _byte(operator, _OP_KIND) == kind and (main := _table(operator, _OP_MAIN)) is not None:
            yield operator, main


def _write(buffer: bytearray, place: int, value: int) -> None:
    """Write a 32-bit integer over the one at a place."""
    encode.Write(number_types.Int32Flags.packer_type, buffer, place, value)


def _place(table: Any, field: int) -> int:
    return int(table.Offset(4 + 2 * field))


def _table(table: Any, field: int) -> Any:
    place = _place(table, field)
    return Table(table.Bytes, table.Indirect(table.Pos + place)) if place else None


def _tables(table: Any, field: int) -> Iterator[Any]:
    place = _place(table, field)
    if place:
        start = table.Vector(place)
        for i in range(table.VectorLen(place)):
            yield Table(table.Bytes, table.Indirect(start + 4 * i))


def _text(table: Any, field: int) -> str:
    place = _place(table, field)
    return str(table.String(table.Pos + place).decode()) if place else ""


def _integer(table: Any, field: int, default: int) -> int:
    place = _place(table, field)
    return int(table.Get(number_types.Int32Flags, table.Pos + place)) if place else default


def _byte(table: Any, field: int) -> int:
    place = _place(table, field)
    return int(table.Get(number_types.Uint8Flags, table.Pos + place)) if place else 0


def _integers(table: Any, field: int) -> list[int]:
    place = _place(table, field)
    if not place:
        return []
    start = table.Vector(place)
    return [int(table.Get(number_types.Int32Flags, start + 4 * i)) for i in range(table.VectorLen(place))]
