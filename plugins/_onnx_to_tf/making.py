"""Operators that make tensors: constants, sizes, ranges."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import (
    Node,
    constant,
    operator,
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
    return tf.fill(dense_shape(shape), tf.constant(array))


def dense_shape(shape: Any) -> Any:
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
