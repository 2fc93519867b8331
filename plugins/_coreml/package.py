"""Reads a Core ML package (`.mlpackage`) on any system: its manifest, its specification, its weights.

A package is a folder: `Manifest.json` names its parts, `model.mlmodel` holds the specification (a protocol
buffer), `weights/weight.bin` the large constants. Only coremltools' generated protocol buffer classes are
needed, not coremltools itself, whose import takes seconds.

Sources: https://apple.github.io/coremltools/mlmodel/Format/Model.html and `MIL.proto` beside it; the weight
file's layout is `mlmodel/src/MILBlob/Blob/StorageFormat.hpp` in https://github.com/apple/coremltools.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import struct
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Array
from registry_export.parsing import json_of, read_bounded

DATA_TYPES = {
    1: ("bool", 8),
    2: ("string", 0),
    10: ("float16", 16),
    11: ("float32", 32),
    12: ("float64", 64),
    13: ("bfloat16", 16),
    21: ("int8", 8),
    22: ("int16", 16),
    23: ("int32", 32),
    24: ("int64", 64),
    25: ("int4", 4),
    31: ("uint8", 8),
    32: ("uint16", 16),
    33: ("uint32", 32),
    34: ("uint64", 64),
    35: ("uint4", 4),
    36: ("uint2", 2),
    37: ("uint1", 1),
    38: ("uint6", 6),
    39: ("uint3", 3),
}
"""`DataType` of MIL.proto: name and bits per element."""

BLOB_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
"""`BlobDataType` of the weight file."""

SENTINEL = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQ")
"""Sentinel, element type, size in bytes, offset of the data; padded to 64 bytes."""


def messages() -> Any:
    """Import the protocol buffer classes of a specification without importing coremltools around them."""
    name = "coremltools"
    if name in sys.modules:
        return importlib.import_module(f"{name}.proto.Model_pb2")
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise VerificationError("coremltools is not installed.", remedy="pip install registry-export[coreml]")
    stand_in = types.ModuleType(name)
    stand_in.__path__ = list(found.submodule_search_locations)
    sys.modules[name] = stand_in
    try:
        return importlib.import_module(f"{name}.proto.Model_pb2")
    finally:
        del sys.modules[name]


@dataclass(frozen=True)
class Blob:
    """Where the weight file keeps one constant.

    Attributes:
        dtype: As in `BLOB_TYPES`.
        size: In bytes.
        offset: Of its first byte in the file.
        path: The file.
    """

    dtype: str
    size: int
    offset: int
    path: Path


class Package:
    """An opened package.

    Args:
        path: The `.mlpackage` folder.

    Attributes:
        spec: The specification (`Model` of Model.proto).
        function: The program's main function (`Function` of MIL.proto).
        block: The block of it that runs (`Block`).

    Raises:
        VerificationError: A part is missing or cannot be read, or it holds no ML program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model_file = _model_file(path)
        self.spec = messages().Model()
        try:
            self.spec.ParseFromString(self.model_file.read_bytes())
        # protobuf's DecodeError; its module differs from one implementation to the next
        except Exception as error:
            raise VerificationError(f"{path.name} holds a damaged specification: {error}") from error
        if self.spec.WhichOneof("Type") != "mlProgram":
            raise VerificationError(f"{path.name} holds no ML program but {self.spec.WhichOneof('Type') or 'nothing'}.")
        functions = self.spec.mlProgram.functions
        name = self.spec.description.defaultFunctionName or "main"
        if name not in functions:
            raise VerificationError(f"The program in {path.name} has no function {name}.")
        self.function = functions[name]
        if self.function.opset not in self.function.block_specializations:
            raise VerificationError(f"The program in {path.name} has no block for its opset {self.function.opset}.")
        self.block = self.function.block_specializations[self.function.opset]

    @property
    def metadata(self) -> dict[str, str]:
        """What the author wrote into the package, by key."""
        return dict(self.spec.description.metadata.userDefined)

    def operations(self, block: Any = None) -> Iterator[Any]:
        """Walk through all operations in order, those of nested blocks after the operation that holds them."""
        for operation in (self.block if block is None else block).operations:
            yield operation
            for inner in operation.blocks:
                yield from self.operations(inner)

    def blob(self, value: Any) -> Blob:
        """Find the weights that a `BlobFileValue` refers to.

        Raises:
            VerificationError: There is no such file, or nothing at that place in it.
        """
        name = value.fileName.removeprefix("@model_path/")
        path = self.model_file.parent / name
        if not path.is_file() or self.model_file.parent not in path.resolve().parents:
            raise VerificationError(f"{self.path.name} lacks its weight file {name}.")
        total = path.stat().st_size
        with path.open("rb") as file:
            file.seek(value.offset)
            head = file.read(_BLOB_HEADER.size)
        if len(head) < _BLOB_HEADER.size:
            raise VerificationError(f"{name} is too short: nothing is at offset {value.offset}.")
        sentinel, dtype, size, offset = _BLOB_HEADER.unpack(head)
        if sentinel != SENTINEL or dtype not in BLOB_TYPES:
            raise VerificationError(f"{name} holds no weights at offset {value.offset}.")
        if offset + size > total:
            raise VerificationError(f"{name} is too short: it ends at {total}, its weights at {offset + size} bytes.")
        return Blob(BLOB_TYPES[dtype], size, offset, path)

    def array(self, value: Any) -> Array:
        """Read a constant (`Value` of MIL.proto); elements narrower than a byte are unpacked to uint8 or int8.

        Raises:
            VerificationError: The weight file is damaged.
        """
        dtype, bits, sizes = tensor_type(value.type)
        shape = [size or 0 for size in sizes]  # a constant's sizes are known
        if value.WhichOneof("value") == "blobFileValue":
            blob = self.blob(value.blobFileValue)
            with blob.path.open("rb") as file:
                file.seek(blob.offset)
                data = file.read(blob.size)
            return _decoded(data, dtype, bits, shape)
        held = value.immediateValue.tensor
        field = held.WhichOneof("value")
        if field == "bytes":
            return _decoded(held.bytes.values, dtype, bits, shape)
        values = list(getattr(held, field).values) if field else []
        return np.array(values, dtype=object if dtype == "string" else dtype).reshape(shape)


def _decoded(data: bytes, dtype: str, bits: int, shape: list[int]) -> Array:
    """Interpret raw little-endian elements."""
    count = math.prod(shape)
    if bits >= 8:
        if dtype == "bfloat16":
            wide = np.frombuffer(data, "<u2", count).astype(np.uint32) << 16
            return wide.view(np.float32).reshape(shape)
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), count).reshape(shape)
    # Elements lie one after the other from the least significant bit of each byte on.
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    numbers = (flags << np.arange(bits, dtype=np.uint8)).sum(1).astype(np.uint8)
    if not dtype.startswith("uint"):
        sign = 1 << (bits - 1)
        return ((numbers ^ sign).astype(np.int16) - sign).astype(np.int8).reshape(shape)
    return numbers.reshape(shape)


def tensor_type(value_type: Any) -> tuple[str, int, tuple[int | None, ...]]:
    """Return element type, bits per element and sizes (None where unknown) of a `ValueType`."""
    tensor = value_type.tensorType
    dtype, bits = DATA_TYPES.get(tensor.dataType, ("unknown", 0))
    sizes = (d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in tensor.dimensions)
    return dtype, bits, tuple(sizes)


def stored_bytes(count: int, bits: int) -> int:
    """Return the bytes that `count` packed elements take."""
    return (count * bits + 7) // 8


def _model_file(path: Path) -> Path:
    """Find the specification through the manifest."""
    manifest = path / "Manifest.json"
    try:
        told = json_of(read_bounded(manifest))
        item = told["itemInfoEntries"][told["rootModelIdentifier"]]["path"]
        file = path / "Data" / item
        is_there = file.is_file()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{path.name} has no readable Manifest.json: {error}") from error
    if not is_there or path.resolve() not in file.resolve().parents:
        raise VerificationError(f"{path.name} lacks {item}, which its manifest names.")
    return file
