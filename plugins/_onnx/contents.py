"""What an ONNX file holds: initializers, one in memory at a time where they lie beside the file, and nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, external_data_helper, numpy_helper

from registry_export.format import Array, Held, Inside
from registry_export_plugins._onnx.files import dtype_name, external_files, read
from registry_export_plugins._onnx.opsets import graphs_of

_PACKED = {"uint4": 0.5, "int4": 0.5, "float4e2m1": 0.5, "uint2": 0.25, "int2": 0.25}
"""Bytes of an element of types that share a byte."""


def inside(path: Path) -> Inside:
    """Read a model's initializers, constants, nodes and words.

    Raises:
        SourceError: It is no ONNX model, or weights beside it are missing.
    """
    external_files(path)  # names what is missing, and what lies elsewhere
    model = read(path, weights=False)
    counts = Counter(_called(node) for graph in (*graphs_of(model), *model.functions) for node in graph.node)
    return Inside(tensors=_tensors(model, path.parent), operators=counts, metadata=_metadata(model))


def _called(node: Any) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _tensors(model: ModelProto, folder: Path) -> Iterator[Held]:
    for graph in graphs_of(model):
        for tensor in graph.initializer:
            yield _held(tensor.name, tensor, folder)
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value" and node.output:
                    yield _held(node.output[0], attribute.t, folder)


def _held(name: str, tensor: TensorProto, folder: Path) -> Held:
    dtype = dtype_name(tensor.data_type)
    if dtype == "string":
        return Held(name, None, tuple(tensor.dims), dtype, sum(map(len, tensor.string_data)))
    count = int(np.prod(tensor.dims, dtype=np.int64))
    size = round(count * _PACKED[dtype]) if dtype in _PACKED else None
    size = _size(dtype, count) if size is None else size
    return Held(name, partial(_array, tensor, folder), tuple(tensor.dims), dtype, size)


def _size(dtype: str, count: int) -> int:
    wide = 2 if dtype == "bfloat16" else 1 if dtype.startswith("float8") else np.dtype(dtype).itemsize
    return count * wide


def _array(tensor: TensorProto, folder: Path) -> Array:
    if tensor.data_location == TensorProto.EXTERNAL:
        own = TensorProto()
        own.CopyFrom(tensor)  # the model's keeps its reference, and not the bytes
        external_data_helper.load_external_data_for_tensor(own, str(folder))
        tensor = own
    array = numpy_helper.to_array(tensor)
    # ml_dtypes' numbers are of no kind that NumPy knows.
    return array.astype(np.float32) if array.dtype.kind not in "biufc" else array


def _metadata(model: ModelProto) -> Mapping[str, str]:
    said = {
        "domain": model.domain,
        "model version": str(model.model_version or ""),
        "graph": model.graph.name,
        "description": model.doc_string,
        **{entry.key: entry.value for entry in model.metadata_props},
    }
    return {name: text for name, text in said.items() if text}
