"""What an ONNX file computes: the results of its nodes, as further outputs of a copy.

Source: https://onnxruntime.ai/docs/api/python/api_summary.html
"""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate
from registry_export_plugins._onnx.libraries import library_of, place_to_load

_FIRST = 16
_MOST_BYTES = 256_000_000
_MOST_AT_ONCE = 512
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)")
_SCOPES = "pkg.torch.onnx.name_scopes"


def watched(path: Path, feed: Mapping[str, Any], read: Callable[[Any], Array]) -> Iterator[Intermediate]:
    """Run a file with every result as an output, as many at a time as memory holds; nothing is fused.

    Args:
        path: The file.
        feed: ONNX Runtime's values by input.
        read: Makes an array of one of its values.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy, library = Path(folder, path.name), library_of(path)
        model = onnx.load(path, load_external_data=False)
        _bring_weights(path, Path(folder), model)
        nodes = list(_live(model.graph))
        start, count = 0, _FIRST
        while start < len(nodes):
            part = nodes[start : start + count]
            names = [name for node, _ in part for name in node.output if name]
            values = _run(model, names, copy, library, feed)
            size = 0
            for node, after in part:
                for one in _shown(node, after, values, read):
                    size += one.value.nbytes if one.value is not None else 0
                    yield one
            start += count
            count = max(1, min(_MOST_AT_ONCE, 2 * count, int(count * _MOST_BYTES / max(size, 1))))


def _bring_weights(path: Path, folder: Path, model: Any) -> None:
    """Put the files with the weights beside the copy; ONNX Runtime follows no link out of a model's folder."""
    entries = [entry for tensor in _stored(model.graph) for entry in tensor.external_data if entry.key == "location"]
    for location in {entry.value for entry in entries}:
        target = folder / location
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.parent / location, target)
        except OSError:
            shutil.copyfile(path.parent / location, target)


def _stored(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _stored(inner)


def _live(graph: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the nodes that depend on the inputs, each with the results that it reads."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - stored
    made: set[str] = set()
    for node in graph.node:
        reads = {name for name in (*node.input, *_captured(node)) if name}
        if reads & (inputs | made):
            made.update(node.output)
            yield node, tuple(sorted(reads & made))


def _captured(node: Any) -> Iterator[str]:
    """Yield what the bodies of a node read; names of their own among it do no harm."""
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)


def _run(model: Any, names: Sequence[str], copy: Path, library: Path | None, feed: Mapping[str, Any]) -> dict[str, Any]:
    own = [value.name for value in model.graph.output]
    outputs = list(model.graph.output)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    copy.write_bytes(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library is not None:
        options.register_custom_ops_library(place_to_load(library))
    try:
        session = onnxruntime.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run_with_ort_values(list(names), dict(feed)), strict=True))
    except Exception as error:  # its exceptions have no public base class
        raise VerificationError(f"ONNX Runtime cannot show what is inside: {error}") from error


def _shown(
    node: Any, after: tuple[str, ...], values: dict[str, Any], read: Callable[[Any], Array]
) -> Iterator[Intermediate]:
    for name in filter(None, node.output):
        value = values.pop(name)
        floats = value.is_tensor() and value.has_value() and value.data_type() in _FLOATS
        array = read(value) if floats else None
        yield Intermediate(name, array, _module(node), node.op_type, tuple(n for n in after if n not in node.output))


def _module(node: Any) -> str:
    """Return the path of the PyTorch module that the exporter noted on a node; the last scope is the operator's."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = [str(scope) for scope in ast.literal_eval(entry.value)]
            except (ValueError, SyntaxError):
                return ""
            return next((scope for scope in reversed(scopes[:-1]) if scope), "")
    return ""
