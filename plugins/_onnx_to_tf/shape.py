"""Operators that reshape, rearrange, join and repeat tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Image,
    Node,
    axes_of,
    numbers,
    operator,
    partly_known,
    plain,
    sizes,
    static,
)
from registry_export_plugins._onnx_to_tf.making import dense_shape


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

    return tf.tile(x, dense_shape(repeats))


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
