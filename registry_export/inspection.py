"""Read what a model's file holds, inside a child: one tensor at a time, and everything within bounds.

The file may be a stranger's: what it says is cut to what a person can read and an answer can carry.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Contents, Description, ModuleContents, Outline, TensorContents
from registry_export.errors import RegistryExportError, SourceError
from registry_export.format import Array, Format, Held, Inside
from registry_export.inference import Origin, one_line
from registry_export.summaries import Statistics, difference, statistics
from registry_export.tensors import TensorFolder, read_tensors

_MOST_TENSORS = 20_000
_MOST_KEPT = 10_000
_MOST_MODULES = 5_000
_MOST_ENTRIES = 1_000
_MOST_SHOWN = 40
_LARGEST_OUTLINED = 256 << 20
"""Bytes of a file. Some formats can be looked into only with their weights in memory."""
_DEEPEST = 16
_LONGEST_NAME = 300
_LONGEST_TEXT = 2_000
_COUNTERS = ("bool", "int16", "int32", "int64", "uint16", "uint32", "uint64", "string")


@dataclass(frozen=True)
class InspectRequest:
    """What the child is given.

    Attributes:
        origin: A checkpoint or an artifact.
        keep: Folder to write the elements of its tensors to; empty: they are not kept.
        beside: Folder that another model's were kept in, to be compared with; empty: none.
    """

    origin: Origin
    keep: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Inspected:
    """What the child answers.

    Attributes:
        contents: What the file holds.
        differences: Largest absolute difference from the tensors beside, by name, where both have one of that name and
            shape and the elements differ; None where one has a NaN or an infinity that the other has not.
    """

    contents: Contents
    differences: Mapping[str, float | None] = field(default_factory=dict)


def inspect(arguments: Any) -> Inspected:
    """Read a model's file.

    Raises:
        SourceError: It cannot be read.
    """
    request = msgspec.convert(arguments, InspectRequest)
    request.origin.enter()
    format_ = format_named(discover_formats(), request.origin.format)
    path = Path(request.origin.path)
    try:
        inside = _inside(format_, path)
        description, unsaid = _described(format_, path)
        contents = _contents(format_, _size(path), inside, description, unsaid)
        return _with_tensors(contents, inside, request)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(f"The {format_.name} model cannot be looked into: {one_line(error)}") from error


def outline(format_: Format, path: Path) -> Outline | None:
    """Sum up what a file holds; None where its format cannot tell, or where it is too large to be loaded once more."""
    if not hasattr(format_, "inspect") or _size(path) > _LARGEST_OUTLINED:
        return None
    try:
        inside = _inside(format_, path)
        held = list(itertools.islice(inside.tensors or (), _MOST_TENSORS))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  it is an extra: what matters of the file has been checked
        return None
    own = [_listed(one) for one in held if not one.same_as]
    sizes: Counter[str] = Counter()
    for tensor in own:
        sizes[tensor.dtype] += tensor.size_bytes
    told = inside.tensors is not None
    return Outline(
        tensors=len(held) if told else None,
        parameters=sum(map(parameters_of, own)) if told else None,
        dtypes=dict(sizes.most_common()),
        operators=dict(itertools.islice(_most_frequent(inside.operators or {}).items(), _MOST_SHOWN)),
    )


def _listed(held: Held) -> TensorContents:
    """Tell of a tensor what is known without its elements."""
    array = None if held.value is None or callable(held.value) else held.value
    shape = held.shape if array is None else array.shape
    dtype = held.dtype or (array.dtype.name if array is not None else "")
    size = held.size_bytes if held.size_bytes is not None else array.nbytes if array is not None else 0
    return TensorContents(_cut(held.name, _LONGEST_NAME), tuple(map(int, shape)), dtype, int(size))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _inside(format_: Format, path: Path) -> Inside:
    look = getattr(format_, "inspect", None)
    if look is None:
        return Inside(unsaid=(f"The format {format_.name} does not say how to look into its files.",))
    inside: Inside = look(path)
    return inside


def _described(format_: Format, path: Path) -> tuple[Description | None, tuple[str, ...]]:
    """Ask the format for the file's own account; weights alone have none."""
    try:
        return format_.describe(path), ()
    except RegistryExportError as error:
        return None, (f"Inputs and outputs: {error.message}",)


def _contents(
    format_: Format, size: int, inside: Inside, description: Description | None, unsaid: tuple[str, ...]
) -> Contents:
    operators = None if inside.operators is None else _most_frequent(inside.operators)
    known = Contents(format_.name, size, operators=operators, unsaid=(*inside.unsaid, *unsaid))
    if description is None:
        return replace(known, metadata=_texts(inside.metadata))
    if not description.interface.inputs and not description.interface.outputs:
        known = replace(known, unsaid=(*known.unsaid, "The file does not tell its inputs and outputs."))
    else:
        known = replace(known, interface=description.interface)
    return replace(
        known,
        opset_version=description.opset_version,
        opset_imports=description.opset_imports,
        ir_version=description.ir_version,
        format_version=description.format_version,
        precision=description.precision,
        metadata=_texts({**_beside(description.details, operators), **inside.metadata}),
    )


def _beside(details: Mapping[str, str], operators: Mapping[str, int] | None) -> Mapping[str, str]:
    """Leave the names of the operators out where they are counted."""
    return {name: text for name, text in details.items() if name != "operators" or operators is None}


def _most_frequent(operators: Mapping[str, int]) -> dict[str, int]:
    counts = Counter({_cut(name, _LONGEST_NAME): int(count) for name, count in operators.items()})
    return dict(sorted(counts.most_common(_MOST_ENTRIES), key=lambda one: (-one[1], one[0])))


def _texts(metadata: Mapping[str, str]) -> dict[str, str]:
    some = itertools.islice(metadata.items(), _MOST_ENTRIES)
    return {_cut(key, _LONGEST_NAME): _cut(text, _LONGEST_TEXT) for key, text in some}


def _cut(text: str, limit: int) -> str:
    text = str(text).encode(errors="replace").decode()  # a lone surrogate is no JSON
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _with_tensors(contents: Contents, inside: Inside, request: InspectRequest) -> Inspected:
    """Read the tensors one after the other, and add up their sums."""
    if inside.tensors is None:
        return Inspected(contents)
    beside = read_tensors(Path(request.beside)) if request.beside else {}
    tree = _Tree()
    listed: list[TensorContents] = []
    differences: dict[str, float | None] = {}
    count = parameters = size = 0
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(TensorFolder(Path(request.keep))) if request.keep else None
        for held in inside.tensors:
            value = held.value() if callable(held.value) else held.value
            tensor = _summary(held, value)
            count += 1
            if not tensor.same_as:
                parameters, size = parameters + parameters_of(tensor), size + tensor.size_bytes
                tree.add(tensor)
            if len(listed) < _MOST_TENSORS:
                listed.append(tensor)
            if value is not None and value.dtype.kind not in "OSUV" and len(listed) < _MOST_KEPT:
                if keeper is not None:
                    keeper.add(tensor.name, value)
                if (other := beside.get(tensor.name)) is not None and other.shape == value.shape:
                    differences[tensor.name] = difference(value, other)
    return Inspected(
        replace(
            contents,
            tensors=tuple(listed),
            tensor_count=count,
            parameters=parameters,
            tensor_bytes=size,
            modules=tree.modules(),
            unsaid=(*contents.unsaid, *_left_out(count, tree)),
        ),
        differences,
    )


def _left_out(count: int, tree: _Tree) -> Iterator[str]:
    if count > _MOST_TENSORS:
        yield f"{count} tensors are in the file; the first {_MOST_TENSORS} are listed, the sums are of all."
    if tree.overflowed:
        yield f"The first {_MOST_MODULES} modules are listed."


def _summary(held: Held, value: Array | None) -> TensorContents:
    name, same_as = _cut(held.name, _LONGEST_NAME), _cut(held.same_as, _LONGEST_NAME)
    if value is None:
        return TensorContents(name, tuple(map(int, held.shape)), held.dtype, int(held.size_bytes or 0), same_as=same_as)
    size = value.nbytes if held.size_bytes is None else int(held.size_bytes)
    numbers = statistics(value) if value.dtype.kind not in "OSUVcMm" else Statistics()
    is_object = value.dtype.kind == "O"
    raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if not is_object else None
    digest = None if raw is None else hashlib.sha256(raw.data).hexdigest()
    return TensorContents(
        name,
        tuple(map(int, value.shape)),
        held.dtype or value.dtype.name,
        size,
        numbers.minimum,
        numbers.maximum,
        numbers.mean,
        numbers.std,
        numbers.nonfinite,
        same_as,
        digest,
    )


def parameters_of(tensor: TensorContents) -> int:
    """Count the elements of floats, and of integers that stand for floats; wider ones are sizes and counters."""
    return 0 if tensor.dtype in _COUNTERS else math.prod(tensor.shape)


class _Tree:
    """Sums by module: what stands before the last part of a tensor's name, and all that is above that."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], list[int]] = {(): [0, 0]}
        self._separators: dict[tuple[str, ...], str] = {(): ""}
        self.overflowed = False

    def add(self, tensor: TensorContents) -> None:
        separator = "/" if "/" in tensor.name else "."
        parts = tuple(tensor.name.split(separator))[:-1][:_DEEPEST]
        for depth in range(len(parts) + 1):
            path = parts[:depth]
            if path not in self._sums and len(self._sums) >= _MOST_MODULES:
                self.overflowed = True
                return
            self._separators.setdefault(path, separator)
            sums = self._sums.setdefault(path, [0, 0])
            sums[0] += parameters_of(tensor)
            sums[1] += tensor.size_bytes

    def modules(self) -> tuple[ModuleContents, ...]:
        children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for path, (parameters, _) in self._sums.items():
            if path and parameters:
                children.setdefault(path[:-1], []).append(path)
        return tuple(self._below((), children))

    def _below(
        self, path: tuple[str, ...], children: Mapping[tuple[str, ...], Iterable[tuple[str, ...]]]
    ) -> Iterator[ModuleContents]:
        parameters, size = self._sums[path]
        yield ModuleContents(self._separators[path].join(path), parameters, size, len(path))
        for child in children.get(path, ()):
            yield from self._below(child, children)
