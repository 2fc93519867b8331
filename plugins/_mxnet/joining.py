"""Operators that join, repeat, pad, or make elements."""

from __future__ import annotations

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node
from registry_export_plugins._mxnet.shapes import Part, all_known, reshaped, sliced


def _tile(b: Builder, node: Node, inputs: list[str]) -> str:
    x, repeats = inputs[0], node.sizes("reps", ())
    missing = len(repeats) - b.rank(x)
    if missing > 0:
        x = b.op("Unsqueeze", x, b.integers(*range(missing)))
    return b.op("Tile", x, b.integers(*((1,) * -missing), *repeats))


def _repeat(b: Builder, node: Node, inputs: list[str]) -> str:
    x, axis, count = inputs[0], node.get("axis"), node.get("repeats")
    if axis is None:
        x, axis = b.op("Reshape", x, b.integers(-1)), 0
    axis, rank = b.axis(x, axis), b.rank(x)
    wide = b.op("Unsqueeze", x, b.integers(axis + 1))
    wide = b.op("Tile", wide, b.integers(*(count if a == axis + 1 else 1 for a in range(rank + 1))))
    parts: list[Part] = [(a,) if a < axis else (a, a + 1) if a == axis else (a + 1,) for a in range(rank)]
    return reshaped(b, node, wide, parts)


def _stack(b: Builder, node: Node, inputs: list[str]) -> str:
    axis = node.get("axis", 0) % (b.rank(inputs[0]) + 1)
    return b.op("Concat", *(b.op("Unsqueeze", x, b.integers(axis)) for x in inputs), axis=axis)


def _concat(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Concat", *inputs, axis=b.axis(inputs[0], node.get("dim", 1)))


def _reverse(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    for axis in node.sizes("axis", ()):
        x = sliced(b, x, b.axis(x, axis), None, None, -1)
    return x


def _depth_to_space(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("DepthToSpace", inputs[0], blocksize=node.get("block_size"), mode="DCR")


def _space_to_depth(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("SpaceToDepth", inputs[0], blocksize=node.get("block_size"))


def _pad(b: Builder, node: Node, inputs: list[str]) -> str:
    x, widths = inputs[0], node.sizes("pad_width", ())
    pads = b.integers(*widths[::2], *widths[1::2])
    mode = node.get("mode", "constant")
    value = [b.like(node.get("constant_value", 0), x)] if mode == "constant" else []
    return b.op("Pad", x, pads, *value, mode=mode)


def _broadcast_to(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Expand", inputs[0], b.integers(*(size or 1 for size in node.sizes("shape", ()))))


def _broadcast_like(b: Builder, node: Node, inputs: list[str]) -> str:
    if node.get("lhs_axes") is not None:
        raise node.unsupported("of some axes has no translation to ONNX here")
    return b.set_shape(b.op("Expand", inputs[0], b.op("Shape", inputs[1])), b.shape(inputs[1]))


def _broadcast_axis(b: Builder, node: Node, inputs: list[str]) -> str:
    sizes = [1] * b.rank(inputs[0])
    for axis, size in zip(node.sizes("axis", ()), node.sizes("size", ()), strict=True):
        sizes[b.axis(inputs[0], axis)] = size
    return b.op("Expand", inputs[0], b.integers(*sizes))


def _diagonal(b: Builder, node: Node, inputs: list[str]) -> str:
    shape = b.shape(inputs[0])
    if len(shape) != 2 or node.get("k", 0) or not all_known(shape):
        raise node.unsupported("but of a matrix of fixed size has no translation to ONNX here")
    rows, columns = shape
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    places = [place * (columns + 1) for place in range(min(rows, columns))]
    return b.op("Gather", b.op("Reshape", inputs[0], b.integers(-1)), b.integers(*places), axis=0)


def _filled(b: Builder, node: Node, inputs: list[str]) -> str:
    """A constant; a size that MXNet leaves open (0) becomes 1, which broadcasts to it."""
    value = {"_zeros": 0, "_ones": 1}.get(node.op, node.get("value", 0))
    sizes = [size or 1 for size in node.sizes("shape", ())]
    return b.constant(np.full(sizes, value, np.dtype(node.get("dtype", "float32"))))


def _arange(b: Builder, node: Node, inputs: list[str]) -> str:
    start, stop = node.get("start", 0), node.get("stop")
    start, stop = (0, start) if stop is None else (start, stop)
    values = np.arange(start, stop, node.get("step", 1.0), np.dtype(node.get("dtype", "float32")))
    return b.constant(np.repeat(values, node.get("repeat", 1)))


def _arange_like(b: Builder, node: Node, inputs: list[str]) -> str:
    x, axis = inputs[0], node.get("axis")
    if axis is None or node.get("repeat", 1) != 1:
        raise node.unsupported("but along one axis has no translation to ONNX here")
    axis = b.axis(x, axis)
    size = b.op("Gather", b.op("Shape", x), b.constant(axis, np.int64), axis=0)
    count = b.op("Range", b.constant(0, np.int64), size, b.constant(1, np.int64))
    steps = b.op("Mul", b.cast(count, b.dtype(x)), b.like(node.get("step", 1.0), x))
    return b.set_shape(b.op("Add", steps, b.like(node.get("start", 0.0), x)), (b.shape(x)[axis],))


OPERATORS: dict[str, Translate] = {
    "tile": _tile,
    "repeat": _repeat,
    "stack": _stack,
    "Concat": _concat,
    "concat": _concat,
    "_rnn_param_concat": lambda b, node, inputs: b.op("Concat", *inputs, axis=0),
    "reverse": _reverse,
    "flip": _reverse,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "Pad": _pad,
    "pad": _pad,
    "broadcast_to": _broadcast_to,
    "broadcast_like": _broadcast_like,
    "broadcast_axis": _broadcast_axis,
    "broadcast_axes": _broadcast_axis,
    "shape_array": lambda b, node, inputs: b.op("Shape", inputs[0]),
    "size_array": lambda b, node, inputs: b.op("Reshape", b.op("Size", inputs[0]), b.integers(1)),
    "diag": _diagonal,
    **dict.fromkeys(("_zeros", "_ones", "_full"), _filled),
    "_arange": _arange,
    "_contrib_arange_like": _arange_like,
}
