"""Operators that make, reshape, join and cut tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Image,
    Node,
    axes_of,
    constant,
    numbers,
    operator,
    partly_known,
    plain,
    sizes,
    static,
    to_dtype,
)


@operator("Constant")
def _constant(node: Node) -> Any:
    from onnx import numpy_helper

    name, value = next(iter(node.attributes.items()))
    if name == "value":
        return constant(numpy_helper.to_array(value))
    if name == "sparse_value":
        return constant(_dense(value))
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return constant(np.array(value, dtype.get(name)))


def _dense(sparse: Any) -> Any:
    from onnx import numpy_helper

    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(list(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = values
    else:
        array[tuple(indices.T)] = values
    return array


@operator("ConstantOfShape")
def _constant_of_shape(node: Node, shape: Any) -> Any:
    import tensorflow as tf
    from onnx import numpy_helper

    value = node.get("value")
    array = numpy_helper.to_array(value).reshape(()) if value is not None else np.float32(0)
    return tf.fill(_dense_shape(shape), tf.constant(array))


def _dense_shape(shape: Any) -> Any:
    """Return a shape as Python numbers where all are known, else as the tensor."""
    known = static(shape)
    return shape if known is None else [int(size) for size in known.reshape(-1)]


@operator("Shape", images=True)
def _shape(node: Node, x: Any) -> Any:
    import tensorflow as tf

    tensor = plain(x)
    known = tensor.shape.as_list()[node.get("start", 0) : node.get("end")]
    if all(size is not None for size in known):
        return constant(np.array(known, np.int64))
    return tf.shape(tensor, tf.int64)[node.get("start", 0) : node.get("end")]


@operator("Size")
def _size(node: Node, x: Any) -> Any:
    import tensorflow as tf

    if x.shape.is_fully_defined():
        return constant(np.int64(x.shape.num_elements()))
    return tf.size(x, tf.int64)


@operator("Reshape")
def _reshape(node: Node, x: Any, shape: Any = None) -> Any:
    import tensorflow as tf

    wanted = list(node.get("shape")) if shape is None else partly_known(shape)
    if wanted is None:
        return tf.reshape(x, shape)
    if set(wanted) == {None} and len(wanted) > 1 and not node.get("allowzero", 0):
        return tf.reshape(x, _copied(tf, x, shape))
    if not node.get("allowzero", 0):
        own = sizes(x) if 0 in wanted else []
        wanted = [own[i] if size == 0 else size for i, size in enumerate(wanted)]
    if shape is not None and static(shape) is None:
        unknown = [i for i, size in enumerate(wanted) if size is None]
        if len(unknown) > 1:
            wanted = [shape[i] if size is None else size for i, size in enumerate(wanted)]
        elif unknown:
            # One open size follows from the others; this also holds where it is a -1 that was computed.
            wanted = [-1 if size is None else size for size in wanted]
    return tf.reshape(x, _packed(wanted, x))


def _copied(tf: Any, x: Any, shape: Any) -> Any:
    """Put the input's own sizes where a shape that the model computes has zeros."""
    own = tf.shape(x, out_type=shape.dtype)[: shape.shape[0]]
    missing = shape.shape[0] - x.shape.rank
    own = own if missing <= 0 else tf.pad(own, [(0, missing)])
    return tf.where(tf.equal(shape, 0), own, shape)


def _packed(wanted: list[Any], x: Any) -> Any:
    """Make a shape of numbers and scalar tensors; a lone tensor becomes -1, which follows from the rest."""
    import tensorflow as tf

    tensors = [i for i, size in enumerate(wanted) if tf.is_tensor(size)]
    if len(tensors) == 1 and all(size > 0 for size in wanted if isinstance(size, int)):
        return [-1 if i in tensors else size for i, size in enumerate(wanted)]
    if tensors:
        return tf.stack([tf.cast(size, tf.int32) for size in wanted])
    return [int(size) for size in wanted]


@operator("Flatten")
def _flatten(node: Node, x: Any) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    axis = node.get("axis", 1)
    axis = axis + rank if axis < 0 else axis
    known = x.shape.as_list()
    if None not in known[axis:]:
        after = int(np.prod(known[axis:]))
        if after > 0:
            return tf.reshape(x, [-1, after])
    if None not in known[:axis]:
        before = int(np.prod(known[:axis]))
        if before > 0:
            return tf.reshape(x, [before, -1])
    shape = tf.shape(x)
    return tf.reshape(x, tf.stack([tf.reduce_prod(shape[:axis]), tf.reduce_prod(shape[axis:])]))


@operator("Transpose", images=True)
def _transpose(node: Node, x: Any) -> Any:
    import tensorflow as tf

    permutation = node.get("perm")
    if isinstance(x, Image):
        rank = x.last.shape.rank
        if permutation == [0, *range(2, rank), 1]:
            return x.last
        return tf.transpose(x.first, permutation)
    tensor = plain(x)
    rank = tensor.shape.rank
    if rank and rank > 2 and permutation == [0, rank - 1, *range(1, rank - 1)]:
        return Image(tensor)
    return tf.transpose(tensor, permutation)


@operator("Concat", images=True)
def _concat(node: Node, *inputs: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis", 1)
    if all(isinstance(value, Image) for value in inputs):
        rank = inputs[0].last.shape.rank
        place = [0, rank - 1, *range(1, rank - 1)][axis % rank]
        return Image(tf.concat([value.last for value in inputs], place))
    tensors = [plain(value) for value in inputs]
    return tf.concat(tensors, axis)


@operator("Squeeze")
def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    import tensorflow as tf

    return tf.squeeze(x, axes_of(node, axes, x.shape.rank))


@operator("Unsqueeze")
def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    import tensorflow as tf

    count = len(numbers(node, axes, "axes")) if axes is not None else len(node.get("axes"))
    for axis in sorted(axes_of(node, axes, x.shape.rank + count) or []):
        x = tf.expand_dims(x, axis)
    return x


@operator("Expand")
def _expand(node: Node, x: Any, shape: Any) -> Any:
    import tensorflow as tf

    known = partly_known(shape)
    if known is not None and None not in known and x.shape.is_fully_defined():
        return tf.broadcast_to(x, np.broadcast_shapes(tuple(x.shape.as_list()), tuple(known)))
    own = tf.shape(x, out_type=shape.dtype)
    result = tf.broadcast_to(x, tf.broadcast_dynamic_shape(own, shape))
    if known is not None and x.shape.rank is not None:
        result.set_shape(_broadcast(x.shape.as_list(), known))
    return result


def _broadcast(first: list[int | None], second: list[int | None]) -> list[int | None]:
    """Combine two shapes as far as they are known."""
    rank = max(len(first), len(second))
    pairs = zip([1] * (rank - len(first)) + first, [1] * (rank - len(second)) + second, strict=True)
    return [b if a == 1 else a if b == 1 or a is not None else b if b not in (None, 1) else None for a, b in pairs]


@operator("Tile")
def _tile(node: Node, x: Any, repeats: Any) -> Any:
    import tensorflow as tf

    return tf.tile(x, _dense_shape(repeats))


@operator("Range")
def _range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    import tensorflow as tf

    return tf.range(tf.reshape(start, []), tf.reshape(limit, []), tf.reshape(delta, []))


@operator("EyeLike")
def _eye_like(node: Node, x: Any) -> Any:
    import tensorflow as tf

    dtype = to_dtype(node.get("dtype")) if node.get("dtype") else x.dtype
    rows, columns = sizes(x)
    offset = node.get("k", 0)
    difference = tf.range(columns)[None, :] - tf.range(rows)[:, None]
    return tf.cast(tf.equal(difference, offset), dtype)


@operator("Trilu")
def _trilu(node: Node, x: Any, diagonal: Any = None) -> Any:
    import tensorflow as tf

    rows, columns = sizes(x)[-2:]
    offset = tf.constant(0) if diagonal is None else tf.cast(tf.reshape(diagonal, []), tf.int32)
    difference = tf.range(columns)[None, :] - tf.range(rows)[:, None]
    kept = difference >= offset if node.get("upper", 1) else difference <= offset
    return tf.where(kept, x, tf.zeros([], x.dtype))


@operator("Split")
def _split(node: Node, x: Any, lengths: Any = None) -> list[Any]:
    import tensorflow as tf

    axis = node.get("axis", 0) % x.shape.rank
    given = numbers(node, lengths, "lengths") if lengths is not None else node.get("split")
    count = node.get("num_outputs") or len(node.outputs)
    if given is not None:
        return list(tf.split(x, list(given), axis))
    size = x.shape[axis]
    if size is None or size % count == 0:
        return list(tf.split(x, count, axis))
    each = -(-size // count)
    return list(tf.split(x, [each] * (count - 1) + [size - each * (count - 1)], axis))


@operator("Slice")
def _slice(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    begin, end = _bounds(node, starts, "starts"), _bounds(node, ends, "ends")
    where = axes_of(node, axes, rank) or list(range(len(begin)))
    stride = numbers(node, steps, "steps") if steps is not None else [1] * len(begin)
    index: list[Any] = [slice(None)] * rank
    for axis, low, high, step in zip(where, begin, end, stride, strict=True):
        index[axis] = _range_of(low, high, step, x.shape[axis])
    sliced = x[tuple(index)]
    return tf.identity(sliced) if sliced is x else sliced


def _bounds(node: Node, value: Any, name: str) -> list[Any]:
    """Read bounds as numbers, or as scalar tensors where the model computes them."""
    import tensorflow as tf

    if value is None:
        return list(node.get(name))
    known = static(value)
    if known is not None:
        return [int(number) for number in known.reshape(-1)]
    value = tf.reshape(value, [-1])
    return [value[i] for i in range(value.shape[0])]


def _range_of(low: Any, high: Any, step: int, size: int | None) -> slice:
    """Make the slice of one axis; bounds beyond the ends mean the ends."""
    largest = 2**31 - 1
    if isinstance(low, int) and abs(low) >= largest:
        low = None if (low > 0) == (step < 0) or (low < 0) == (step > 0) else low
    if isinstance(high, int) and abs(high) >= largest:
        high = None
    if isinstance(high, int) and size is not None and step < 0 and high < -size:
        high = None
    if isinstance(low, int) and size is not None and step < 0 and low >= size:
        low = None
    if isinstance(low, int) and size is not None and step > 0 and low < -size:
        low = None
    return slice(_int32(low), _int32(high), step)


def _int32(bound: Any) -> Any:
    """Bounds of one slice must agree in type; the model's are int64, TensorFlow's numbers int32."""
    import tensorflow as tf

    if bound is None or isinstance(bound, int):
        return bound
    return tf.cast(tf.clip_by_value(bound, -(2**31) + 1, 2**31 - 1), tf.int32)


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Any) -> Any:
    import tensorflow as tf

    block = node.get("blocksize")
    batch, channels, height, width = sizes(x)
    depth = channels // (block * block)
    if node.get("mode", "DCR") == "DCR":
        split = tf.reshape(x, _packed([batch, block, block, depth, height, width], x))
        moved = tf.transpose(split, [0, 3, 4, 1, 5, 2])
    else:
        split = tf.reshape(x, _packed([batch, depth, block, block, height, width], x))
        moved = tf.transpose(split, [0, 1, 4, 2, 5, 3])
    return tf.reshape(moved, _packed([batch, depth, height * block, width * block], x))


@operator("SpaceToDepth")
def _space_to_depth(node: Node, x: Any) -> Any:
    import tensorflow as tf

    block = node.get("blocksize")
    batch, channels, height, width = sizes(x)
    split = tf.reshape(x, _packed([batch, channels, height // block, block, width // block, block], x))
    order = [0, 3, 5, 1, 2, 4] if node.get("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    moved = tf.transpose(split, order)
    return tf.reshape(moved, _packed([batch, channels * block * block, height // block, width // block], x))
