"""ONNX files: read, given names, checked, written, described.

Source: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError
from registry_export_plugins._onnx.names import give_names
from registry_export_plugins._onnx.opsets import (
    LARGEST_IN_ONE_FILE,
    first_line,
    graphs_of,
    opset_of,
    to_opset,
    weight_bytes,
)

_DTYPES = {"float": "float32", "double": "float64"}
_WEIGHTS_APART = 4
"""IR version from which an initializer need not be listed among the inputs."""


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


def external_files(path: Path) -> tuple[str, ...]:
    """Return the files beside a model that hold its weights, relative to its folder.

    Raises:
        SourceError: One of them is missing, or lies outside of the model's folder.
    """
    model = read(path, weights=False)
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


def finish(
    model: ModelProto, output: Path, interface: Interface, opset: int | None, optimize: bool = False
) -> ModelProto:
    """Bring a model to its opset, give it the interface's names, check it and write it.

    Args:
        model: What a converter made; its inputs and outputs are those of `interface`, in any order if
            their names are the same, else in the same order.
        output: The file to write.
        interface: Names, order and dimension names to give.
        opset: The opset to deliver; None keeps the model's.
        optimize: Whether to simplify the graph with onnxslim.

    Raises:
        ConversionError: The opset is out of reach, or the model is not valid.
    """
    _complete(model, interface)
    if opset is not None:
        model = to_opset(model, opset)
    if optimize:
        model = _optimized(model)
    _strip(model)
    give_names(model, interface)
    if opset is not None and opset_of(model) != opset:
        raise ConversionError(f"Opset {opset} was asked for, but the file says {opset_of(model)}.")
    write(model, output)
    return model


def _complete(model: ModelProto, interface: Interface) -> None:
    """Write what files leave out that run all the same, and that ONNX's checker asks for.

    That is an IR version in which weights need not be inputs too, and the rank of inputs and outputs.
    """
    model.ir_version = max(model.ir_version, _WEIGHTS_APART)
    for values, specs in ((model.graph.input, interface.inputs), (model.graph.output, interface.outputs)):
        by_name = {spec.name: spec for spec in specs}
        for position, value in enumerate(values):
            spec = by_name.get(value.name) or (specs[position] if len(specs) == len(values) else None)
            tensor = value.type.tensor_type
            if spec is None or spec.shape is None or not value.type.HasField("tensor_type") or tensor.HasField("shape"):
                continue
            tensor.shape.SetInParent()
            for size in spec.shape:
                tensor.shape.dim.add(dim_param=size if isinstance(size, str) else None)


def _optimized(model: ModelProto) -> ModelProto:
    import onnxslim

    opset = opset_of(model)
    try:
        slimmed: ModelProto = onnxslim.slim(model)
    except Exception as error:  # onnxslim raises whatever a pattern or a shape inference raises
        raise ConversionError(f"onnxslim could not optimize the model: {first_line(error)}") from error
    return to_opset(slimmed, opset)


def _strip(model: ModelProto) -> None:
    """Take away what tells of the machine that exported, so that equal models are equal files."""
    del model.metadata_props[:]
    for graph in graphs_of(model):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.doc_string = ""
            del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def write(model: ModelProto, output: Path) -> None:
    """Write one file, or two where one would be too large, and check what was written.

    Raises:
        ConversionError: It is not valid.
    """
    if weight_bytes(model) > LARGEST_IN_ONE_FILE:
        data = output.name + ".data"
        onnx.save(model, str(output), save_as_external_data=True, all_tensors_to_one_file=True, location=data)
    else:
        onnx.save(model, str(output))
    try:
        onnx.checker.check_model(str(output), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ConversionError(f"The ONNX file that was written is not valid: {first_line(error)}") from error


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
    """Name the precision: `int8` where weights or activations are quantized, else what most weights have."""
    operators = {node.op_type for graph in graphs_of(model) for node in graph.node}
    if operators & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        return "int8"
    counts: dict[str, int] = {}
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            elements = 1
            for size in tensor.dims:
                elements *= size
            counts[dtype_name(tensor.data_type)] = counts.get(dtype_name(tensor.data_type), 0) + elements
    floats = {name: count for name, count in counts.items() if "float" in name}
    most = max(floats, key=lambda name: floats[name], default="float32")
    return {"float16": "fp16", "bfloat16": "bf16"}.get(most, "fp32")


def count_nodes(model: ModelProto) -> int:
    """Count the nodes of all graphs."""
    return sum(len(graph.node) for graph in graphs_of(model))


def opset_imports(model: ModelProto) -> Mapping[str, int]:
    """Return every opset by domain; the default domain is `ai.onnx`."""
    return {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
