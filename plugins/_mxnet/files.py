"""MXNet's files: the symbol, which is the graph as JSON, and the parameters, which are a list of arrays.

Source of both formats: https://github.com/apache/mxnet/tree/v1.9.x (src/ndarray/ndarray.cc, nnvm's saveload_json.cc)
"""

from __future__ import annotations

import ast
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.errors import SourceError, UnsupportedModelError
from registry_export.format import Array
from registry_export.parsing import json_of, read_bounded

_LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?", "<i2", "<u2", "<u4", "<u8")
_BFLOAT16 = 12

_SYMBOL = "-symbol.json"

_LONG = re.compile(r"(?<=\d)[lL]\b")
_WORDS = {"true": True, "false": False}
_STATISTICS = ("moving_mean", "moving_var")
_WITHOUT_STATISTICS = 3


@dataclass(frozen=True)
class Node:
    """A node of the symbol: an operator's call, or a variable (`op` is `null`).

    Attributes:
        inputs: Of each input the number of the node that makes it, and which of its outputs it is.
    """

    op: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[tuple[int, int], ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute as the value that it was written from; MXNet's words stay text.

        Python 2 wrote `(3L, 3L)`, and languages other than Python write `false`: MXNet reads both.
        """
        text = self.attributes.get(key)
        if text is None or text == "None":
            return default
        if text in _WORDS:
            return _WORDS[text]
        try:
            return ast.literal_eval(_LONG.sub("", text))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return text

    def sizes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return an attribute that is one size or several."""
        value = self.get(key, default)
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)

    def unsupported(self, why: str = "has no translation to ONNX here") -> UnsupportedModelError:
        """Build the error that names the operator and the node."""
        return UnsupportedModelError(
            f"MXNet's operator {self.op} (node {self.name}) {why}.",
            remedy="Export the model to ONNX with MXNet 1.9 (mxnet.onnx.export_model) and log that file.",
        )


@dataclass(frozen=True)
class Symbol:
    """A graph: nodes in an order in which they can be computed, and which of their outputs are the model's."""

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]
    version: str


def parameters_of(symbol: Path) -> Path | None:
    """Return the parameters that belong to a symbol file: those of its last epoch."""
    prefix = symbol.name.removesuffix(_SYMBOL)
    found = sorted(path for path in symbol.parent.glob("*.params") if _is_of(path.name, prefix))
    if not found and len(list(symbol.parent.glob("*.params"))) == 1:
        found = list(symbol.parent.glob("*.params"))
    return found[-1] if found else None


def _is_of(name: str, prefix: str) -> bool:
    rest = name.removeprefix(prefix).removesuffix(".params")
    return name.startswith(prefix) and (not rest or (rest[0] == "-" and rest[1:].isdecimal()))


def find_symbol(folder: Path) -> Path | None:
    """Return the only symbol file of a folder that has parameters beside it."""
    if not folder.is_dir():
        return None
    found = [path for path in sorted(folder.glob(f"*{_SYMBOL}")) if parameters_of(path) is not None]
    return found[0] if len(found) == 1 else None


def read_symbol(path: Path) -> Symbol:
    """Read a symbol file.

    Raises:
        SourceError: It is none.
    """
    try:
        document = json_of(read_bounded(path))
        nodes, places = _with_statistics(map(_node, document["nodes"]))
        heads = tuple((places[int(head[0])], int(head[1])) for head in document["heads"])
        version = int(document.get("attrs", {}).get("mxnet_version", ["int", 0])[1])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise SourceError(f"{path.name} cannot be read as an MXNet symbol: {error!r:.300}.") from error
    return Symbol(nodes, heads, f"{version // 10000}.{version // 100 % 100}.{version % 100}" if version else "")


def _node(record: Mapping[str, Any]) -> Node:
    # `param` and `attr` are what MXNet wrote before 1.0.
    attributes = {**record.get("param", {}), **record.get("attr", {}), **(record.get("attrs") or {})}
    inputs = tuple((int(entry[0]), int(entry[1])) for entry in record["inputs"])
    return Node(str(record["op"]), str(record["name"]), {k: str(v) for k, v in attributes.items()}, inputs)


def _with_statistics(nodes: Iterable[Node]) -> tuple[tuple[Node, ...], list[int]]:
    """Give each BatchNorm the two variables that MXNet left out of the file before 0.9.

    Returns:
        The nodes, and for each node of the file its number among them.
    """
    complete: list[Node] = []
    places: list[int] = []
    for node in nodes:
        inputs = [(places[source], which) for source, which in node.inputs]
        if node.op == "BatchNorm" and len(inputs) == _WITHOUT_STATISTICS:
            inputs += [(len(complete) + number, 0) for number in range(len(_STATISTICS))]
            complete += [Node("null", f"{node.name}_{name}") for name in _STATISTICS]
        places.append(len(complete))
        complete.append(replace(node, inputs=tuple(inputs)))
    return tuple(complete), places


def read_parameters(path: Path) -> dict[str, Array]:
    """Read a parameters file: arrays by name, without MXNet's `arg:` and `aux:`.

    Raises:
        SourceError: It is none, or it is torn.
        UnsupportedModelError: It holds a sparse array.
    """
    reader = _Reader(path.read_bytes())
    try:
        if reader.take("Q") != _LIST_MAGIC:
            raise SourceError(f"{path.name} is no file of MXNet's parameters.")
        reader.take("Q")
        arrays = [reader.array(path.name) for _ in range(reader.take("Q"))]
        names = [reader.text() for _ in range(reader.take("Q"))]
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise SourceError(f"{path.name} is torn: {error}.", remedy="Log the file again.") from error
    if names and len(names) != len(arrays):
        raise SourceError(f"{path.name} holds {len(arrays)} arrays and {len(names)} names.")
    return {name.partition(":")[2] or name: array for name, array in zip(names, arrays, strict=False)}


class _Reader:
    """Little-endian numbers, arrays and texts, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, kind: str) -> int:
        value = struct.unpack_from(f"<{kind}", self._data, self._at)[0]
        self._at += struct.calcsize(f"<{kind}")
        return int(value)

    def text(self) -> str:
        size = self.take("Q")
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it ends inside of a name")
        return self._data[self._at - size : self._at].decode()

    def array(self, file: str) -> Array:
        magic = self.take("I")
        if magic not in (_V1, _V2, _V3):
            return self._legacy(magic, file)
        if magic != _V1 and self.take("i") not in (0, -1):
            raise UnsupportedModelError(f"{file} holds a sparse array, which only MXNet reads.")
        rank = self.take("i" if magic == _V3 else "I")
        return self._content(tuple(self.take("q") for _ in range(rank)), file, has_none=rank == 0 and magic != _V3)

    def _legacy(self, rank: int, file: str) -> Array:
        """Read an array as MXNet wrote it before 0.12: what is the magic number elsewhere is the rank."""
        if rank > 32:
            raise SourceError(f"{file} holds an array of an unknown kind ({rank:#x}).")
        return self._content(tuple(self.take("I") for _ in range(rank)), file, has_none=rank == 0)

    def _content(self, shape: tuple[int, ...], file: str, has_none: bool) -> Array:
        if has_none:
            return np.zeros(0, np.float32)
        self.take("i")  # the device
        self.take("i")  # its number
        number = self.take("i")
        if number == _BFLOAT16 or not 0 <= number < len(_DTYPES):
            raise UnsupportedModelError(f"{file} holds an array of MXNet's type {number}, which NumPy has not.")
        dtype = np.dtype(_DTYPES[number])
        count = math.prod(shape)
        if min(shape, default=0) < 0 or count * dtype.itemsize > len(self._data) - self._at:
            raise ValueError("it ends inside of an array")
        array = np.frombuffer(self._data, dtype, count, self._at).reshape(shape)
        self._at += count * dtype.itemsize
        return array
