"""Operators whose inputs say which elements to take."""

from __future__ import annotations

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node
from registry_export_plugins._mxnet.shapes import sliced


def _within(b: Builder, node: Node, x: str, axis: int, index: str) -> str:
    """Bring indices into the range of an axis, as MXNet does, and to int64."""
    index, mode, size = b.cast(index, np.int64), node.get("mode", "clip"), b.shape(x)[axis]
    if mode == "raise":
        return index
    if isinstance(size, int):
        whole = b.constant(size, np.int64)
    else:
        whole = b.op("Gather", b.op("Shape", x), b.constant(axis, np.int64), axis=0)
    if mode == "wrap":
        return b.op("Mod", index, whole)
    one, zero = b.constant(1, np.int64), b.constant(0, np.int64)
    return b.op("Max", b.op("Min", index, b.op("Sub", whole, one)), zero)


def _take(b: Builder, node: Node, inputs: list[str]) -> str:
    x, index = inputs
    axis = b.axis(x, node.get("axis", 0))
    return b.op("Gather", x, _within(b, node, x, axis, index), axis=axis)


def _embedding(b: Builder, node: Node, inputs: list[str]) -> str:
    index, weight = inputs
    return b.op("Gather", weight, _within(b, node, weight, 0, index), axis=0)


def _picked(b: Builder, node: Node, x: str, index: str, axis: int, keep: bool) -> str:
    if b.rank(index) < b.rank(x):
        index = b.op("Unsqueeze", index, b.integers(axis))
    found = b.op("GatherElements", x, _within(b, node, x, axis, index), axis=axis)
    return found if keep else b.op("Squeeze", found, b.integers(axis))


def _pick(b: Builder, node: Node, inputs: list[str]) -> str:
    axis = b.axis(inputs[0], node.get("axis", -1))
    return _picked(b, node, inputs[0], inputs[1], axis, node.get("keepdims", False))


def _batch_take(b: Builder, node: Node, inputs: list[str]) -> str:
    return _picked(b, node, inputs[0], inputs[1], 1, False)


def _one_hot(b: Builder, node: Node, inputs: list[str]) -> str:
    dtype = np.dtype(str(node.get("dtype", "float32")))
    values = b.constant([node.get("off_value", 0.0), node.get("on_value", 1.0)], dtype)
    return b.op("OneHot", b.cast(inputs[0], np.int64), b.constant(node.get("depth"), np.int64), values, axis=-1)


def _gather_nd(b: Builder, node: Node, inputs: list[str]) -> str:
    """MXNet has the coordinates on the first axis of the indices, ONNX on the last."""
    index = b.cast(inputs[1], np.int64)
    return b.op("GatherND", inputs[0], b.op("Transpose", index, perm=[*range(1, b.rank(index)), 0]))


def _sequence_axis(b: Builder, node: Node) -> int:
    return int(node.get("axis", 0))


def _sequence_mask(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    if not node.get("use_sequence_length", False):
        return x
    axis = _sequence_axis(b, node)
    size = b.op("Gather", b.op("Shape", x), b.constant(axis, np.int64), axis=0)
    steps = b.op("Range", b.constant(0, np.int64), size, b.constant(1, np.int64))
    steps = b.op("Unsqueeze", b.set_shape(steps, (None,)), b.integers(1 - axis))
    lengths = b.op("Unsqueeze", b.cast(inputs[1], np.int64), b.integers(axis))
    inside = b.op("Less", steps, lengths)
    further = range(2, b.rank(x))
    inside = b.op("Unsqueeze", inside, b.integers(*further)) if further else inside
    return b.op("Where", inside, x, b.like(node.get("value", 0.0), x))


def _sequence_reverse(b: Builder, node: Node, inputs: list[str]) -> str:
    if not node.get("use_sequence_length", False):
        return sliced(b, inputs[0], 0, None, None, -1)
    return b.op("ReverseSequence", inputs[0], b.cast(inputs[1], np.int64), time_axis=0, batch_axis=1)


def _sequence_last(b: Builder, node: Node, inputs: list[str]) -> str:
    x, axis = inputs[0], _sequence_axis(b, node)
    if not node.get("use_sequence_length", False):
        return b.op("Squeeze", sliced(b, x, axis, -1, None), b.integers(axis))
    if axis == 0:
        x = b.op("Transpose", x, perm=[1, 0, *range(2, b.rank(x))])
    last = b.op("Sub", b.cast(inputs[1], np.int64), b.constant(1, np.int64))
    return b.op("GatherND", x, b.op("Unsqueeze", last, b.integers(1)), batch_dims=1)


OPERATORS: dict[str, Translate] = {
    "take": _take,
    "Embedding": _embedding,
    "_contrib_SparseEmbedding": _embedding,
    "pick": _pick,
    "choose_element_0index": _pick,
    "batch_take": _batch_take,
    "one_hot": _one_hot,
    "gather_nd": _gather_nd,
    "SequenceMask": _sequence_mask,
    "SequenceReverse": _sequence_reverse,
    "SequenceLast": _sequence_last,
}
