"""Operators that combine elements along axes, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from registry_export_plugins._onnx_to_tf.common import Image, Node, axes_of, operator, plain, static


def _reduction(name: str, reduce: Callable[[Any, Any, Any, bool], Any]) -> None:
    """Register a reduction; `reduce(tf, x, axes, keepdims)`."""

    @operator(name, images=True)
    def translate(node: Node, x: Any, axes: Any = None) -> Any:
        import tensorflow as tf

        keep = bool(node.get("keepdims", 1))
        rank = x.last.shape.rank if isinstance(x, Image) else plain(x).shape.rank
        given = axes_of(node, axes, rank)
        if not given and (node.get("noop_with_empty_axes", 0)):
            return _alone(tf, reduce, plain(x))
        given = given or list(range(rank))
        # A mean over the pixels needs no reordering of the axes: it is what a classifier's last layers do.
        if isinstance(x, Image) and sorted(given) == list(range(2, rank)):
            reduced = reduce(tf, x.last, list(range(1, rank - 1)), keep)
            return Image(reduced) if keep else reduced
        return reduce(tf, plain(x), given, keep)


def _alone(tf: Any, reduce: Callable[[Any, Any, Any, bool], Any], x: Any) -> Any:
    """Apply what a reduction does to each element when it is told to reduce nothing."""
    return reduce(tf, x[..., None], [-1], False)


def _log_sum_exp(tf: Any, x: Any, axes: Any, keep: bool) -> Any:
    return (
        tf.reduce_logsumexp(x, axes, keep) if x.dtype.is_floating else tf.math.log(tf.reduce_sum(tf.exp(x), axes, keep))
    )


def _mean(tf: Any, x: Any, axes: Any, keep: bool) -> Any:
    return tf.reduce_mean(x, axes, keep)


def _extreme(name: str) -> Callable[[Any, Any, Any, bool], Any]:
    def reduce(tf: Any, x: Any, axes: Any, keep: bool) -> Any:
        if x.dtype == tf.bool:
            return tf.reduce_any(x, axes, keep) if name == "reduce_max" else tf.reduce_all(x, axes, keep)
        return getattr(tf, name)(x, axes, keep)

    return reduce


for _name, _function in {
    "ReduceL1": lambda tf, x, axes, keep: tf.reduce_sum(tf.abs(x), axes, keep),
    "ReduceL2": lambda tf, x, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keep)),
    "ReduceLogSum": lambda tf, x, axes, keep: tf.math.log(tf.reduce_sum(x, axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme("reduce_max"),
    "ReduceMean": _mean,
    "ReduceMin": _extreme("reduce_min"),
    "ReduceProd": lambda tf, x, axes, keep: tf.reduce_prod(x, axes, keep),
    "ReduceSum": lambda tf, x, axes, keep: tf.reduce_sum(x, axes, keep),
    "ReduceSumSquare": lambda tf, x, axes, keep: tf.reduce_sum(tf.square(x), axes, keep),
}.items():
    _reduction(_name, _function)


@operator("ArgMax", "ArgMin")
def _arg_extreme(node: Node, x: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis", 0) % x.shape.rank
    find = tf.argmax if node.op_type == "ArgMax" else tf.argmin
    if node.get("select_last_index", 0):
        size = tf.cast(tf.shape(x)[axis], tf.int64)
        found = size - 1 - find(tf.reverse(x, [axis]), axis, tf.int64)
    else:
        found = find(x, axis, tf.int64)
    return tf.expand_dims(found, axis) if node.get("keepdims", 1) else found


@operator("TopK")
def _top_k(node: Node, x: Any, k: Any = None) -> list[Any]:
    import tensorflow as tf

    rank = x.shape.rank
    axis = node.get("axis", -1) % rank
    order = [i for i in range(rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(rank)]
    moved = tf.transpose(x, order) if axis != rank - 1 else x
    known = static(k)
    count = (
        node.get("k")
        if k is None
        else int(known.reshape(()))
        if known is not None
        else tf.reshape(tf.cast(k, tf.int32), [])
    )
    if node.get("largest", 1):
        values, indices = tf.math.top_k(moved, count)
    else:
        values, indices = tf.math.top_k(_mirrored(tf, moved), count)
        values = _mirrored(tf, values)
    indices = tf.cast(indices, tf.int64)
    if axis != rank - 1:
        values, indices = tf.transpose(values, back), tf.transpose(indices, back)
    return [values, indices]


def _mirrored(tf: Any, x: Any) -> Any:
    """Reverse the order of values without overflow: integers have one negative number more."""
    return tf.bitwise.invert(x) if x.dtype.is_integer else -x


@operator("CumSum")
def _cumulative_sum(node: Node, x: Any, axis: Any) -> Any:
    import tensorflow as tf

    known = static(axis)
    place = int(known.reshape(())) if known is not None else tf.reshape(axis, [])
    return tf.cumsum(x, place, exclusive=bool(node.get("exclusive", 0)), reverse=bool(node.get("reverse", 0)))


@operator("CumProd")
def _cumulative_product(node: Node, x: Any, axis: Any) -> Any:
    import tensorflow as tf

    place = tf.reshape(axis, [])
    return tf.math.cumprod(x, place, exclusive=bool(node.get("exclusive", 0)), reverse=bool(node.get("reverse", 0)))


@operator("MatMul")
def _matmul(node: Node, x: Any, y: Any) -> Any:
    import tensorflow as tf

    if x.shape.rank == 1 and y.shape.rank == 1:
        return tf.reduce_sum(x * y)
    if x.shape.rank == 1:
        return tf.squeeze(tf.matmul(x[None], y), -2)
    if y.shape.rank == 1:
        return tf.squeeze(tf.matmul(x, y[:, None]), -1)
    return tf.matmul(x, y)


@operator("Gemm")
def _gemm(node: Node, x: Any, y: Any, addend: Any = None) -> Any:
    import tensorflow as tf

    result = tf.matmul(x, y, transpose_a=bool(node.get("transA", 0)), transpose_b=bool(node.get("transB", 0)))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1.0:
        result *= tf.cast(alpha, result.dtype)
    if addend is None:
        return result
    if addend.shape.rank == 2 and addend.shape[0] == 1:
        # TensorFlow's optimizer fuses the sum and then refuses a bias of two dimensions.
        addend = addend[0]
    return result + (addend if beta == 1.0 else addend * tf.cast(beta, result.dtype))


@operator("Einsum")
def _einsum(node: Node, *inputs: Any) -> Any:
    import tensorflow as tf

    equation = node.get("equation").replace(" ", "")
    if "->" not in equation:
        # Without an arrow the output has the letters that occur once, in alphabetical order.
        letters = equation.replace(",", "").replace("...", "")
        once = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
        equation = f"{equation}->{'...' if '...' in equation else ''}{once}"
    return tf.einsum(equation, *inputs)


@operator("Det")
def _determinant(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.linalg.det(x)


@operator("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node, x: Any) -> Any:
    import tensorflow as tf

    compute = {"Softmax": tf.nn.softmax, "LogSoftmax": tf.nn.log_softmax, "Hardmax": _hardmax}[node.op_type]
    rank = x.shape.rank
    if node.opset >= 13:
        return compute(x, axis=node.get("axis", -1))
    axis = node.get("axis", 1) % rank if rank else 0
    if axis == rank - 1:
        return compute(x, axis=-1)
    # Before opset 13 everything from the axis on was one row.
    shape = tf.shape(x)
    rows = tf.reshape(x, tf.stack([tf.reduce_prod(shape[:axis]), tf.reduce_prod(shape[axis:])]))
    result = tf.reshape(compute(rows, axis=-1), shape)
    result.set_shape(x.shape)
    return result


def _hardmax(x: Any, axis: int) -> Any:
    import tensorflow as tf

    return tf.one_hot(tf.argmax(x, axis), tf.shape(x)[axis], axis=axis, dtype=x.dtype)
