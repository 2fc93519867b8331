"""Telling what a PyTorch file holds without importing PyTorch and without unpickling.

Sources: https://pytorch.org/docs/stable/notes/serialization.html; torch/serialization.py for files from before
version 1.6 (four pickles, one after the other) and 0.1.10 (a tar archive).
"""

from __future__ import annotations

import enum
import functools
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from registry_export_plugins._torch.pickles import MOST_PICKLE_BYTES, Made, Outline, outline


class Content(enum.Enum):
    """What a file holds."""

    MODULE = "a pickled module"
    STATE_DICT = "a state dict"
    CHECKPOINT = "a training checkpoint with a state dict"
    LIGHTNING = "a Lightning checkpoint"
    TORCHSCRIPT = "a TorchScript module"
    PROGRAM = "a torch.export program"
    SAFETENSORS = "safetensors"
    OTHER = "something else"


@dataclass(frozen=True)
class Held:
    """What a file holds, and the names that unpickling it would import."""

    content: Content
    names: frozenset[str] = frozenset()


WEIGHTS_KEYS = ("model_state_dict", "state_dict", "model", "module", "net", "network", "ema", "model_ema", "weights")
"""Under which a training checkpoint holds its model, in the order in which they are looked for."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_UNREADABLE = (
    OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
    struct.error, NotImplementedError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
"""What the readers of archives raise on what is none, or on one that is encrypted or in a compression of its own."""
_TENSOR_MAKERS = ("torch._utils._rebuild_", "torch._tensor.", "torch.nn.parameter.", "torch.Tensor")
_FUNCTIONS = ("collections.", "numpy.", "torch._utils.", "torch.storage", "torch.serialization.")


def content_of(path: Path) -> Held:
    """Say what a file holds; what cannot be read at all is something else."""
    status = path.stat()
    return _content_of(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _content_of(path: Path, modified_ns: int, size: int) -> Held:
    del modified_ns, size  # they are part of the cache's key
    if path.suffix == ".safetensors":
        return Held(Content.SAFETENSORS)
    try:
        if zipfile.is_zipfile(path):
            return _of_zip(path)
        if _is_tar(path):
            return _of_tar(path)
        with path.open("rb") as stream:
            return _of_legacy(stream)
    except _UNREADABLE:
        return Held(Content.OTHER)


def _of_zip(path: Path) -> Held:
    with zipfile.ZipFile(path) as archive:
        entries = archive.namelist()
        if any(entry.endswith("/constants.pkl") for entry in entries):
            return Held(Content.TORCHSCRIPT)
        if any(entry.endswith("models/model.json") or "serialized_exported_program" in entry for entry in entries):
            return Held(Content.PROGRAM)
        pickled = [entry for entry in entries if entry == "data.pkl" or entry.endswith("/data.pkl")]
        if not pickled or archive.getinfo(pickled[0]).file_size > MOST_PICKLE_BYTES:
            return Held(Content.OTHER)
        return _classified(outline(io.BytesIO(archive.read(pickled[0]))))


def _is_tar(path: Path) -> bool:
    """Say whether a file is a tar archive that is not compressed: PyTorch's were not, and unpacking has no bounds."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _of_tar(path: Path) -> Held:
    with tarfile.open(path, "r:") as archive:
        member = archive.extractfile("pickle") if "pickle" in archive.getnames() else None
        return Held(Content.OTHER) if member is None else _classified(outline(member))


def _of_legacy(stream: BinaryIO) -> Held:
    if stream.read(2) not in _PICKLE_STARTS:
        return Held(Content.OTHER)
    stream.seek(0)
    if outline(stream).value != _LEGACY_MAGIC:
        return Held(Content.OTHER)
    for _ in range(2):  # the protocol's version, and facts on the machine that wrote it
        outline(stream)
    return _classified(outline(stream))


def _classified(found: Outline) -> Held:
    return Held(_content(found.value), found.names)


def _content(root: Any) -> Content:
    entries = entries_of(root)
    if entries is None:
        return Content.MODULE if _may_be_module(root) else Content.OTHER
    if "pytorch-lightning_version" in entries and entries_of(entries.get("state_dict")) is not None:
        return Content.LIGHTNING
    if holds_tensors(entries):
        return Content.STATE_DICT
    held = [entries[key] for key in WEIGHTS_KEYS if entries.get(key) is not None]
    if any(holds_tensors(entries_of(value) or {}) for value in held):
        return Content.CHECKPOINT
    return Content.MODULE if any(_may_be_module(value) for value in held) else Content.OTHER


def entries_of(value: Any) -> Mapping[Any, Any] | None:
    """Return the entries of a dictionary of any class; None for what is none."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Made) and (value.name == "collections.OrderedDict" or (value.items and not value.state)):
        return value.items
    return None


def holds_tensors(entries: Mapping[Any, Any]) -> bool:
    """Say whether a dictionary is a state dict: named tensors, and nothing nested that has some of its own."""
    tensors = [key for key, value in entries.items() if isinstance(value, Made) and _makes_tensor(value.name)]
    nested = [value for value in entries.values() if holds_nested(value)]
    return bool(tensors) and not nested and all(isinstance(key, str) for key in tensors)


def holds_nested(value: Any) -> bool:
    """Say whether a value is a dictionary with tensors in it."""
    return any(isinstance(v, Made) and _makes_tensor(v.name) for v in (entries_of(value) or {}).values())


def _makes_tensor(name: str) -> bool:
    return name.startswith(_TENSOR_MAKERS)


def _may_be_module(value: Any) -> bool:
    """Say whether an object is one of a class of its own with state: neither tensor, number nor array."""
    if not isinstance(value, Made) or _makes_tensor(value.name) or value.name.startswith(_FUNCTIONS):
        return False
    state = entries_of(value.state)
    if isinstance(value.state, tuple):
        state = next((found for part in value.state if (found := entries_of(part)) is not None), None)
    # A class that cloudpickle carries along, and one that restores itself in its own way, have no such entries.
    return value.name == "" or state is None or "_modules" in state or "_parameters" in state
