"""Reductions, sorting and matrix products. A reduction over everything has the shape (1,) in MXNet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node

_AXES_AS_INPUT = ("ReduceSum",)


def _axes(b: Builder, node: Node, x: str) -> tuple[int, ...]:
    rank = b.rank(x)
    axes = [] if node.get("axis") is None else [axis % rank for axis in node.sizes("axis", ())]
    if node.get("exclude", False):
        return tuple(axis for axis in range(rank) if axis not in axes)
    return tuple(axes) or tuple(range(rank))


def _reduced(b: Builder, kind: str, x: str, axes: Sequence[int], keep: bool) -> str:
    everything = len(axes) == b.rank(x) and not keep
    if kind in _AXES_AS_INPUT:
        made = b.op(kind, x, b.integers(*axes), keepdims=int(keep))
    else:
        made = b.op(kind, x, axes=list(axes), keepdims=int(keep))
    return b.op("Reshape", made, b.integers(1)) if everything else made


def _reduction(kind: str) -> Translate:
    def translate(b: Builder, node: Node, inputs: list[str]) -> str:
        x = inputs[0]
        if node.op == "nansum":
            x = b.op("Where", b.op("IsNaN", x), b.like(0, x), x)
        return _reduced(b, kind, x, _axes(b, node, x), node.get("keepdims", False))

    return translate


def _norm(b: Builder, node: Node, inputs: list[str]) -> str:
    order = node.get("ord", 2)
    if order not in (1, 2):
        raise node.unsupported(f"of ord {order} has no translation to ONNX here")
    return _reduced(b, f"ReduceL{order}", inputs[0], _axes(b, node, inputs[0]), node.get("keepdims", False))


def _arg(kind: str) -> Translate:
    def translate(b: Builder, node: Node, inputs: list[str]) -> str:
        x, axis, keep = inputs[0], node.get("axis"), node.get("keepdims", False)
        if node.op == "argmax_channel":
            axis = 1
        if axis is None:
            return b.cast(b.op(kind, b.op("Reshape", x, b.integers(-1)), axis=0, keepdims=1), np.float32)
        return b.cast(b.op(kind, x, axis=b.axis(x, axis), keepdims=int(keep)), np.float32)

    return translate


def _size_of(b: Builder, x: str, axis: int) -> str:
    """A vector of one: the size of an axis, at run time where it is not fixed."""
    size = b.shape(x)[axis]
    if isinstance(size, int):
        return b.integers(size)
    return b.op("Slice", b.op("Shape", x), b.integers(axis), b.integers(axis + 1))


def _ordered(b: Builder, node: Node, x: str, count: str, ascending: bool) -> tuple[str, str]:
    if node.get("axis", -1) is None:
        raise node.unsupported("over all axes has no translation to ONNX here")
    axis = b.axis(x, node.get("axis", -1))
    values, indices = b.ops("TopK", 2, x, count, axis=axis, largest=int(not ascending), sorted=1)
    return values, b.cast(indices, np.dtype(str(node.get("dtype", "float32"))))


def _top_k(b: Builder, node: Node, inputs: list[str]) -> str | tuple[str, ...]:
    kind = node.get("ret_typ", "indices")
    if kind == "mask" or node.get("k", 1) < 1:
        raise node.unsupported("as a mask, or without a k, has no translation to ONNX here")
    found = _ordered(b, node, inputs[0], b.integers(node.get("k", 1)), node.get("is_ascend", False))
    return found if kind == "both" else found[0] if kind == "value" else found[1]


def _sort(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    count = _size_of(b, x, b.axis(x, node.get("axis", -1) or -1)) if node.get("axis", -1) != 0 else _size_of(b, x, 0)
    values, indices = _ordered(b, node, x, count, node.get("is_ascend", True))
    made = values if node.op == "sort" else indices
    return b.set_shape(made, b.shape(x))


def _cumulative_sum(b: Builder, node: Node, inputs: list[str]) -> str:
    x, axis = inputs[0], node.get("axis")
    if axis is None:
        x, axis = b.op("Reshape", x, b.integers(-1)), 0
    return b.op("CumSum", x, b.constant(b.axis(x, axis), np.int64))


def _turned(b: Builder, x: str) -> str:
    """Swap the last two axes."""
    rank = b.rank(x)
    return b.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _product(b: Builder, node: Node, inputs: list[str]) -> str:
    """`batch_dot` and `linalg.gemm2`."""
    one, two = inputs
    one = _turned(b, one) if node.get("transpose_a", False) else one
    two = _turned(b, two) if node.get("transpose_b", False) else two
    made = b.op("MatMul", one, two)
    alpha = node.get("alpha", 1.0)
    return made if alpha == 1 else b.op("Mul", made, b.like(alpha, made))


def _dot(b: Builder, node: Node, inputs: list[str]) -> str:
    ranks = [b.rank(x) for x in inputs]
    flags = [node.get(key, False) for key in ("transpose_a", "transpose_b")]
    if ranks == [1, 1]:
        return b.op("Reshape", b.op("MatMul", *inputs), b.integers(1))
    if ranks[1] > 2 or (ranks[0] > 2 and flags[0]):
        raise node.unsupported(f"of {ranks[0]} by {ranks[1]} axes has no translation to ONNX here")
    return _product(b, node, inputs)


OPERATORS: dict[str, Translate] = {
    **dict.fromkeys(("sum", "sum_axis", "nansum"), _reduction("ReduceSum")),
    "mean": _reduction("ReduceMean"),
    **dict.fromkeys(("max", "max_axis"), _reduction("ReduceMax")),
    **dict.fromkeys(("min", "min_axis"), _reduction("ReduceMin")),
    "prod": _reduction("ReduceProd"),
    "norm": _norm,
    "argmax": _arg("ArgMax"),
    "argmax_channel": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "topk": _top_k,
    "sort": _sort,
    "argsort": _sort,
    "cumsum": _cumulative_sum,
    "_np_cumsum": _cumulative_sum,
    "dot": _dot,
    "batch_dot": _product,
    "_linalg_gemm2": _product,
}
