"""ONNX in half precision, with inputs and outputs as they were; of bf16 the weights alone.

The converter is ONNX Runtime's. What reads or writes values that are beyond fp16 on the samples stays in fp32.
Tried in this order, until the result is valid, runs, and answers like the original: everything else in
fp16; the operators in fp32 that overflow or cancel first (norms, sums, powers, exponentials); weights in fp16
and arithmetic in fp32, which is valid whatever the model does.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/float16.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from registry_export.errors import UnsupportedModelError, VerificationError
from registry_export_plugins._onnx.candidates import Taken, Wanted, Way, best_of
from registry_export_plugins._onnx.files import gathered, lay, problem_of_file, read, read_in_part, size_of, write
from registry_export_plugins._onnx.opsets import graphs_of, is_heavy, too_large
from registry_export_plugins._onnx.trial import outputs_of

ENOUGH_SIGNAL = 40.0
"""Decibels: an error of one percent of the signal. fp16 alone costs 60 to 70."""

SENSITIVE = (
    *("Pow", "Exp", "Log", "Sqrt", "Reciprocal", "Softmax", "LogSoftmax", "CumSum", "Resize", "Upsample"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceProd", "ReduceLogSumExp", "ReduceLogSum"),
    *("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"),
)
"""Operators whose intermediate values leave the range of fp16 (6e-8 to 65504), or lose their digits in it, first."""

_TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
_BF16_SINCE = 13
_MOST_NAMED = 5


def to_fp16(path: Path, wanted: Wanted) -> Taken:
    """Write a model in half precision; see the module's docstring for what is tried.

    Args:
        path: A valid model in fp32.
        wanted: Samples to try it on, and the folder to work in.

    Raises:
        ConversionError: No way gave a valid file that runs.
    """
    large = _beyond_range(path, wanted)

    def whole(blocked: tuple[str, ...]) -> Way:
        name = "fp16, sensitive operators in fp32" if blocked else "fp16"
        note = f"Computed in fp32, because values on the samples are beyond fp16: {_listed(large)}." if large else ""
        return Way(name, lambda candidate: _write_half(path, blocked, large, candidate), note)

    ways = (
        whole(()),
        whole(SENSITIVE),
        _weights_alone(path, "fp16"),
    )
    return best_of(ways, path, wanted, ENOUGH_SIGNAL, problem_of_file)


def to_bf16(path: Path, wanted: Wanted) -> Taken:
    """Write a model whose weights are bf16, each cast to fp32 where it is read.

    ONNX Runtime has no kernels of bf16 on the CPU for most operators: a file that computed in it would not run here.

    Args:
        path: A valid model in fp32.
        wanted: Samples to try it on, and the folder to work in.

    Raises:
        UnsupportedModelError: Its opset has no bf16.
        ConversionError: The file is not valid, or does not run.
    """
    opset = next((o.version for o in read(path, weights=False).opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _BF16_SINCE:
        raise UnsupportedModelError(
            f"ONNX has bf16 from opset {_BF16_SINCE} on, and the file is to have {opset}.",
            remedy="Leave opset_version out, or ask for precision fp16.",
        )
    return best_of((_weights_alone(path, "bf16"),), path, wanted, 0.0, problem_of_file)


def _weights_alone(path: Path, precision: str) -> Way:
    def made(candidate: Path) -> None:
        write(_half_weights(read(path), precision), candidate)

    note = f"Weights are stored in {precision}; the arithmetic is fp32."
    return Way(f"weights in {precision}, arithmetic in fp32", made, note)


def _beyond_range(path: Path, wanted: Wanted) -> frozenset[str]:
    """Return the inner values that are beyond the range of fp16 on the samples.

    A CPU computes much of an fp16 model in fp32 and would never show it; a GPU does.
    """
    if too_large(size_of(path)) or not wanted.samples:
        return frozenset()
    model = _typed(path)
    known = {value.name for value in model.graph.output}
    inner = [v for v in model.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    made = {name for node in model.graph.node for name in node.output}
    for value in inner:
        if value.name in made - known:
            model.graph.output.add(name=value.name).type.tensor_type.elem_type = TensorProto.FLOAT
    shown = path.parent / f"range-{path.name}"  # where its weights are, if they lie beside it
    onnx.save(model, str(shown))
    try:
        values = outputs_of(shown, wanted.samples, wanted.work / "trial") or {}
    except VerificationError:
        return frozenset()
    return frozenset(name for name, array in values.items() if array.dtype == np.float32 and _beyond_half(array))


def _listed(names: frozenset[str]) -> str:
    shown = sorted(names)[:_MOST_NAMED]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def _typed(path: Path) -> ModelProto:
    """Read a model with the types and shapes of its inner values; of a large one large weights stay where they are."""
    model = read_in_part(path) if is_heavy(size_of(path)) else read(path)
    return onnx.shape_inference.infer_shapes(model)


def _write_half(path: Path, blocked: tuple[str, ...], large: frozenset[str], candidate: Path) -> None:
    """Convert the graph, and then the weights that lie beside a large one, piece by piece from file to file."""
    model = _typed(path)
    floats = {t.name for graph in graphs_of(model) for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    half = _half(model, blocked, large)
    if not any(tensor.data_location for graph in graphs_of(half) for tensor in graph.initializer):
        write(half, candidate)
        return

    def narrowed(tensor: TensorProto, piece: memoryview) -> bytes | memoryview:
        from onnxruntime.transformers import float16

        if tensor.data_type != TensorProto.FLOAT16 or tensor.name not in floats:
            return piece
        values: np.ndarray[tuple[int, ...], np.dtype[np.float16]] = float16.convert_np_to_float16(
            np.frombuffer(piece, np.float32)
        )
        return values.tobytes()

    made = gathered(path, candidate.parent / "apart" / candidate.name, half, narrowed)
    if too_large(size_of(made)):
        lay(made, candidate, candidate.parent)
    else:  # half of it fits into one file
        write(read(made), candidate)


def _half(model: ModelProto, blocked: tuple[str, ...], large: frozenset[str]) -> ModelProto:
    """Convert; nodes that read or write values beyond the range stay in fp32."""
    from onnxruntime.transformers import float16

    _name_nodes(model)
    foreign = [node.name for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    touching = [node.name for node in model.graph.node if large & {*node.input, *node.output}]
    # The converter reads a whole weight for its shape, and finds none that lies beside the file.
    with mock.patch.object(float16, "make_value_info_from_tensor", _value_of):
        converted: ModelProto = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *blocked],
            node_block_list=[*touching, *foreign],
            disable_shape_infer=True,
        )
    _bypass_casts(converted.graph)
    for graph in graphs_of(converted):
        del graph.value_info[:]  # some still say what a value was before
    _sort(converted.graph)
    # ONNX Runtime 1.31 dies while fusing a transposed product whose type it has not been told.
    inferred: ModelProto = onnx.shape_inference.infer_shapes(converted)
    return inferred


def _value_of(tensor: TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _bypass_casts(graph: GraphProto) -> None:
    """Lead a value from one fp32 node to the next directly, where the converter leads it through fp16."""
    narrowed = {node.output[0]: node.input[0] for node in graph.node if _casts_to(node, TensorProto.FLOAT16)}
    widened = {
        node.output[0]: narrowed[node.input[0]]
        for node in graph.node
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed
    }
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        node.input[:] = [widened.get(name, name) for name in node.input]
        if _casts_to(node, TensorProto.FLOAT) and node.output[0] in outputs and node.output[0] in widened:
            node.op_type = "Identity"
            node.input[0] = widened[node.output[0]]
            del node.attribute[:]
    for _ in range(2):  # first the second cast of each pair, then the first
        read_names = outputs.union(*(_reads(node) for node in graph.node))
        for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read_names]:
            graph.node.remove(node)


def _casts_to(node: onnx.NodeProto, dtype: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == dtype for a in node.attribute)


def _name_nodes(model: ModelProto) -> None:
    """The converter remembers nodes by their names, which ONNX lets be empty and equal."""
    for number, graph in enumerate(graphs_of(model)):
        for position, node in enumerate(graph.node):
            node.name = f"{node.op_type}_{number}_{position}"


def _sort(graph: GraphProto) -> None:
    """Put nodes after those that they read from; the converter appends its casts at the end."""
    made = {name for node in graph.node for name in node.output if name}
    waiting, ordered, known = list(graph.node), [], set()
    while waiting:
        ready = [node for node in waiting if all(name in known or name not in made for name in _reads(node))]
        if not ready:
            ready = waiting  # a cycle: the checker will say so
        for node in ready:
            known.update(node.output)
        ordered += ready
        waiting = [node for node in waiting if not any(node is other for other in ready)]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for each in inner.node:
                yield from _reads(each)
            yield from (value.name for value in inner.output)


def _half_weights(model: ModelProto, precision: str) -> ModelProto:
    """Store float matrices and kernels in half precision, and cast each back where it is read.

    Vectors stay: they are small, and a size that is computed from one (the scales of a `Resize`) must not be rounded.
    """
    dtype = _TYPES[precision]
    for graph in graphs_of(model):
        casts = []
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else None
            if array is None or array.ndim < 2 or _beyond_half(array, dtype):
                continue
            name = f"{tensor.name}__{precision}"
            casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT, name=f"{name}__cast"))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), name))
        nodes = [*casts, *(type(node).FromString(node.SerializeToString()) for node in graph.node)]
        del graph.node[:]
        graph.node.extend(nodes)
    return model


def _beyond_half(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], dtype: Any = np.float16) -> bool:
    finite = np.abs(array[np.isfinite(array)])
    return bool(finite.size and finite.max() > float(ml_dtypes.finfo(dtype).max))
