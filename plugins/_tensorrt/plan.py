"""What an engine's file says of itself where no GPU is there to deserialise it.

TensorRT deserialises only with a driver. An engine of TensorRT-RTX, which is built without one, still
carries its facts in the open: a header with the version that built it and the compute capabilities it
is for, then tagged records, among them one for each input and output with name, element type, sizes
and position. Nothing of this is documented by NVIDIA: the layout was read off engines of TensorRT-RTX
1.7 and is checked record by record, so that an engine of another layout is said to be unreadable rather
than misread. Where there is a GPU, `engine.py` asks TensorRT itself.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from registry_export.entities import Dimension

_MAGIC = re.compile(rb"^([a-z]trt)\0\0\0\0(.{4}).{12}(.)(.)(.)(.)", re.DOTALL)
_RTX = b"vtrt"
_DEVICES_AT = 32
_DEVICES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_ANY_FROM_SM80 = 0x7E
AMPERE_AND_NEWER = ("sm80, sm86, sm89, sm120 and newer",)
"""What TensorRT-RTX builds for when it is not told.

Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
"""

_ELEMENTS = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "bool",
    5: "uint8",
    6: "float8_e4m3fn",
    7: "bfloat16",
    8: "int64",
}
"""`nvinfer1::DataType`: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/c-api/"""


def _tag(number: int) -> bytes:
    """Return the pattern of a record's beginning: its number and its version."""
    return re.escape(struct.pack("<HH", 0x8000 | number, 1))


_INT = _tag(7) + rb"(.{4})"
_ARRAY = rb"\x01\x80" + _tag(9) + rb"(.{8})"
_STRING = re.compile(_tag(0x13) + rb"(.{8})\x01\x80" + _tag(0x0C) + rb"\1", re.DOTALL)
_TYPE = re.compile(_tag(0x1C) + _tag(3) + rb"." + _tag(0x0D) + _INT + _tag(3) + rb"." + _ARRAY + rb".{64}", re.DOTALL)
_SIZES = re.compile(_tag(7) + rb".{4}\xe3\x7f" + _tag(0x59) + _INT + _ARRAY, re.DOTALL)
_PLACE = re.compile(rb"\xa6\x7f" + _tag(0x15) + _INT + _tag(0x28) + _INT + _tag(6) + rb"(.{4})", re.DOTALL)
_LONGEST_NAME = 4096


def runs_by_default(device: str) -> bool:
    """Say whether an engine that was built for no device in particular runs on one (`sm90`: data centres, does not)."""
    return device in _DEVICES[1:] or int(device[2:]) > int(_DEVICES[-1][2:])


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine.

    Attributes:
        name: Its tensor's name.
        output: Whether it is one.
        dtype: NumPy's name of the element type.
        shape: Sizes; an open one is called `batch` on the first axis, else after its tensor.
    """

    name: str
    output: bool
    dtype: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Plan:
    """An engine's file, read without a GPU.

    Attributes:
        flavour: `tensorrt_rtx` or `tensorrt`.
        version: Of the TensorRT that built it.
        devices: Compute capabilities that it is for, as `sm89`; empty where the file does not tell.
        label: The network's name, in which the builder notes what the engine's bindings do not tell.
        bindings: Inputs, then outputs, in order; empty where the file's layout is not known.
    """

    flavour: str
    version: str
    devices: tuple[str, ...]
    label: str
    bindings: tuple[Binding, ...]


def read_plan(path: Path) -> Plan | None:
    """Read an engine's file; None when it is none."""
    with path.open("rb") as file:
        head = file.read(64)
        found = _MAGIC.match(head)
        if found is None or len(head) < 64:
            return None
        version = ".".join(str(part[0]) for part in found.groups()[2:])
        if found.group(1) != _RTX:
            return Plan("tensorrt", version, (), "", ())
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            label, bindings = _records(data)
    return Plan("tensorrt_rtx", version, _devices(head), label, bindings)


def _devices(head: bytes) -> tuple[str, ...]:
    (mask,) = struct.unpack_from("<I", head, _DEVICES_AT)
    if mask == _ANY_FROM_SM80:
        return AMPERE_AND_NEWER
    if not mask or mask >> len(_DEVICES):
        return ()
    return tuple(name for bit, name in enumerate(_DEVICES) if mask >> bit & 1)


def _records(data: mmap.mmap) -> tuple[str, tuple[Binding, ...]]:
    """Return the first name in the file, which is the network's, and the bindings in order."""
    label: str | None = None
    placed: dict[int, Binding] = {}
    for found in _STRING.finditer(data):
        (length,) = struct.unpack("<q", found.group(1))
        if not 0 < length <= _LONGEST_NAME:
            continue
        end = found.end() + length
        name = data[found.end() : end].decode("utf-8", "replace")
        label = name if label is None else label
        binding = _binding(data, end, name)
        if binding is not None:
            placed[binding[0]] = binding[1]
    complete = sorted(placed) == list(range(len(placed)))
    return label or "", tuple(placed[position] for position in sorted(placed)) if complete else ()


def _binding(data: mmap.mmap, at: int, name: str) -> tuple[int, Binding] | None:
    """Read the records that follow the name of an input or output; None where it is another name."""
    kind = _TYPE.match(data, at)
    sizes = kind and _SIZES.match(data, kind.end())
    if not kind or not sizes:
        return None
    element, rank = _number(kind.group(1)), _number(sizes.group(1))
    if element not in _ELEMENTS or not 0 <= rank <= 8 or len(data) < sizes.end() + 8 * rank:
        return None
    end = sizes.end() + 8 * rank
    place = _PLACE.match(data, end)
    if place is None:
        return None
    values = struct.unpack_from(f"<{rank}q", data, sizes.end())
    shape = tuple(named_size(size, name, axis) for axis, size in enumerate(values))
    return _number(place.group(3)), Binding(name, bool(_number(place.group(2))), _ELEMENTS[element], shape)


def _number(data: bytes) -> int:
    return int(struct.unpack("<i", data)[0])


def named_size(size: int, name: str, axis: int) -> Dimension:
    """Return a size, or the name of an open one, which TensorRT gives as a negative number."""
    if size >= 0:
        return size
    return "batch" if axis == 0 else f"{name}_{axis}"
