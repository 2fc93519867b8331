"""A float32 ONNX model in bfloat16, for TensorRT's parser alone; inputs and outputs stay float32.

ONNX's own tools convert to float16 only, and many operators of its standard do not list bfloat16. A
strongly typed network of TensorRT takes it wherever it takes floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from registry_export_plugins._onnx.files import read
from registry_export_plugins._onnx.opsets import LARGEST_IN_ONE_FILE, graphs_of, weight_bytes

_FLOAT_INPUTS = {
    "Resize": (1, 2),
    "Upsample": (1,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "Range": (0, 1, 2),
}
"""Inputs that are sizes, steps or scales: they are float32 whatever the data is."""

_LARGEST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


def to_bfloat16(path: Path, output: Path) -> Path:
    """Write a copy of a float32 model whose weights and arithmetic are bfloat16."""
    model = read(path)
    kept = {
        node.input[position]
        for graph in graphs_of(model)
        for node in graph.node
        for position in _FLOAT_INPUTS.get(node.op_type, ())
        if position < len(node.input)
    }
    for graph in graphs_of(model):
        _round_constants(graph, kept)
        del graph.value_info[:]
        for value in (*graph.input, *graph.output) if graph is not model.graph else ():
            _declare(value)
    _cast_ends(model)
    large = weight_bytes(model) > LARGEST_IN_ONE_FILE
    onnx.save(model, str(output), save_as_external_data=large, location=f"{output.name}.data" if large else None)
    return output


def _declare(value: Any) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.FLOAT:
        tensor.elem_type = TensorProto.BFLOAT16


def _round_constants(graph: Any, kept: set[str]) -> None:
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _round(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in kept:
            continue
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _round(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
        _round_scalar(node)


def _round_scalar(node: Any) -> None:
    """Turn `Constant` of a float attribute into one of a tensor, which has a type to choose."""
    for attribute in node.attribute if node.op_type == "Constant" else ():
        if attribute.name in ("value_float", "value_floats"):
            values = [attribute.f] if attribute.name == "value_float" else list(attribute.floats)
            tensor = helper.make_tensor(
                "", TensorProto.FLOAT, [] if attribute.name == "value_float" else [len(values)], values
            )
            _round(tensor)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", tensor))
            return


def _round(tensor: Any) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    name, shape = tensor.name, list(tensor.dims)
    values = numpy_helper.to_array(tensor)
    # A mask's lowest float32 would round to minus infinity, and 0 times that is no number.
    clipped = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    raw = clipped.astype(ml_dtypes.bfloat16).tobytes()
    tensor.CopyFrom(helper.make_tensor(name, TensorProto.BFLOAT16, shape, raw, raw=True))


def _cast_ends(model: ModelProto) -> None:
    """Cast float32 inputs on their way in and outputs on their way out."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [v.name for v in graph.input if v.name not in weights and _is_float(v)]
    outputs = [v.name for v in graph.output if _is_float(v)]
    names = {name: f"{name}__bf16" for name in (*inputs, *outputs)}
    for each in graphs_of(model):
        _rename(each, names)
    first = [helper.make_node("Cast", [name], [names[name]], to=TensorProto.BFLOAT16) for name in inputs]
    last = [
        helper.make_node("Cast", [names[name]], [name], to=TensorProto.FLOAT) for name in outputs if name not in inputs
    ]
    nodes = [*first, *graph.node, *last]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
