"""ONNX files: read, written, checked, described.

Source: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export_plugins._links import copy_file
from registry_export_plugins._onnx.opsets import first_line, graphs_of, too_large, weight_bytes

_DTYPES = {"float": "float32", "double": "float64"}
_LARGEST_IN_PART = 1_000_000
_MOST_IN_PART = 256_000_000
"""Bytes of small weights that are held at most, however many of them there are."""
_ALIGNED = 4096
"""A multiple of this is where a tensor begins that a runtime can map into memory."""
_PIECE = 4 << 20
_SMALLEST_APART = 128
"""Bytes; smaller tensors (shapes, axes, zero points) stay in the file, where shape inference reads them."""


def read(path: Path, *, weights: bool = True) -> ModelProto:
    """Read a model, by default with the weights that it keeps in other files.

    Raises:
        SourceError: The file is no ONNX model, or weights that it keeps in another file are not there.
    """
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except FileNotFoundError as error:
        raise SourceError(
            f"{path.name} keeps weights in another file, which is missing: {error}.",
            remedy="Log the model with all of its files.",
        ) from error
    except Exception as error:  # protobuf's DecodeError has no common base with the others
        raise SourceError(f"{path.name} cannot be read as ONNX: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise SourceError(f"{path.name} cannot be read as ONNX: it holds no graph.")
    return model


def read_in_part(path: Path) -> ModelProto:
    """Read a model and its small weights; those of more than a megabyte stay where they are, and are referred to.

    So a model of any size passes through tools that cannot hold more than 2 GiB.
    """
    model = read(path, weights=False)
    held = 0
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            length = _length(tensor) if tensor.data_location else 0
            if tensor.data_location and length <= _LARGEST_IN_PART and held + length <= _MOST_IN_PART:
                held += length
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
    return model


def _length(tensor: TensorProto) -> int:
    given = {entry.key: entry.value for entry in tensor.external_data}
    return int(given.get("length") or _LARGEST_IN_PART + 1)


def size_of(path: Path) -> int:
    """Return the size in bytes of a file and of the weights beside it."""
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in external_files(path))


def external_files(path: Path) -> tuple[str, ...]:
    """Return the files beside a model that hold its weights, relative to its folder.

    Raises:
        SourceError: One of them is missing, or lies outside of the model's folder.
    """
    return _external_files(read(path, weights=False), path)


def _external_files(model: ModelProto, path: Path) -> tuple[str, ...]:
    tensors = [tensor for graph in graphs_of(model) for tensor in graph.initializer]
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    for name in names:
        file = (path.parent / name).resolve()
        if not file.is_file() or path.parent.resolve() not in file.parents:
            raise SourceError(
                f"{path.name} keeps weights in {name}, which is not beside it.",
                remedy="Log the model with all of its files.",
            )
    return tuple(sorted(names))


def lay(model: Path, output: Path, work: Path) -> None:
    """Lay a model's file, byte for byte, and the files beside it that hold its weights, where they are wanted.

    What lies in the work folder is moved there.

    Raises:
        SourceError: One of them is missing, or lies outside of the model's folder.
    """
    lay_weights(read(model, weights=False), model, output, work)
    lay_file(model, output, work)


def lay_weights(model: ModelProto, source: Path, output: Path, work: Path) -> None:
    """Lay the files that a model read from `source` still refers to beside `output`.

    What lies in the work folder is moved, not copied; it must not be linked, because ONNX takes weights with two
    names for an attack.

    Raises:
        SourceError: One of them is missing, or lies outside of the model's folder.
    """
    for name in _external_files(model, source):
        target = output.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        lay_file(source.parent / name, target, work)


def lay_file(source: Path, target: Path, work: Path) -> None:
    """Move a file out of the work folder; copy one that lies elsewhere."""
    if work != Path() and source.resolve().is_relative_to(work.resolve()):
        shutil.move(source, target)  # which copies where a wall or a file system stands between
    else:
        copy_file(source, target)


Change = Callable[[TensorProto, memoryview], bytes | memoryview]
"""Returns what is written in place of a piece of a tensor's bytes."""


def gathered(path: Path, output: Path, model: ModelProto | None = None, change: Change | None = None) -> Path:
    """Bring the weights that a model keeps in other files into one, a tensor at a time; no more is held in memory.

    Args:
        path: The model's file, with its weights beside it.
        output: The file to write, in a folder of its own; the weights come beside it.
        model: What to write, with weights that lie beside `path`; None: the model as it is.
        change: What to make of a tensor's bytes; None: nothing.

    Returns:
        `output`.
    """
    model = model or read(path, weights=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    name = f"{output.name}.data"
    with (output.parent / name).open("wb") as data:
        for tensor in (t for graph in graphs_of(model) for t in graph.initializer if t.data_location):
            place = {entry.key: entry.value for entry in tensor.external_data}
            data.seek(-data.tell() % _ALIGNED, os.SEEK_CUR)
            offset = data.tell()
            for piece in _pieces(path.parent / place["location"], place):
                data.write(piece if change is None else change(tensor, piece))
            del tensor.external_data[:]
            for key, value in (("location", name), ("offset", offset), ("length", data.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
    onnx.save(model, str(output))
    return output


def _pieces(file: Path, place: Mapping[str, str]) -> Iterator[memoryview]:
    """Yield the bytes at a place of a file, in pieces that hold whole numbers of any type."""
    begin = int(place.get("offset") or 0)
    end = begin + int(place["length"]) if "length" in place else file.stat().st_size
    with file.open("rb") as source:
        source.seek(begin)
        while begin < end and (piece := source.read(min(_PIECE, end - begin))):
            begin += len(piece)
            yield memoryview(piece)


def write(model: ModelProto, output: Path, *, external_data: bool = False) -> None:
    """Write one file, or two where one would be too large, and check what was written.

    Args:
        model: With its weights in memory.
        output: The file; weights that are not in it lie in `<name>.data` beside it.
        external_data: Whether to lay the weights beside the file however few they are.

    Raises:
        ConversionError: It is not valid.
    """
    data = output.parent / f"{output.name}.data"
    if external_data or too_large(weight_bytes(model)):
        data.unlink(missing_ok=True)  # onnx appends to the file that is there
        onnx.save(
            model,
            str(output),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=_SMALLEST_APART,
        )
    else:
        onnx.save(model, str(output))
    if problem := problem_of_file(output):
        raise ConversionError(f"The ONNX file that was written is not valid: {problem}")


def problem_of_file(path: Path) -> str:
    """Run ONNX's full check, shape inference included, on a file; return what it finds, or an empty string."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return first_line(error)
    return ""


def interface_of(model: ModelProto) -> Interface:
    """Read inputs and outputs; a dimension without a size and a name is called after its tensor.

    Initializers that old files list among their inputs are none.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return Interface(tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output)))


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return TensorSpec(value.name, value.type.WhichOneof("value") or "", None)
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_dimension(dim, value.name, axis) for axis, dim in enumerate(tensor.shape.dim))
    return TensorSpec(value.name, dtype_name(tensor.elem_type), shape)


def _dimension(dim: Any, name: str, axis: int) -> Dimension:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or ("batch" if axis == 0 else f"{name}_{axis}")


def dtype_name(element_type: int) -> str:
    """Return NumPy's name of an ONNX element type (`float32`, `bfloat16`)."""
    name = str(TensorProto.DataType.Name(element_type)).lower()
    return _DTYPES.get(name, name)


def precision_of(model: ModelProto) -> str:
    """Name the precision: the coarsest that weights have, or `int8` where weights or activations are quantized.

    Operators whose values are beyond fp16 stay in fp32; the others of that model are rounded all the same.
    """
    operators = {node.op_type for graph in graphs_of(model) for node in graph.node}
    if operators & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        return "int8"
    weights = {
        dtype_name(tensor.data_type) for graph in graphs_of(model) for tensor in graph.initializer if tensor.dims
    }
    return "bf16" if "bfloat16" in weights else "fp16" if "float16" in weights else "fp32"


def count_nodes(model: ModelProto) -> int:
    """Count the nodes of all graphs."""
    return sum(len(graph.node) for graph in graphs_of(model))


def opset_imports(model: ModelProto) -> Mapping[str, int]:
    """Return every opset by domain; the default domain is `ai.onnx`."""
    return {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
