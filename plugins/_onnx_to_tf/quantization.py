"""Quantization and its inverse."""

from __future__ import annotations

from typing import Any

from registry_export_plugins._onnx_to_tf.common import Node, operator, to_dtype


@operator("QuantizeLinear")
def _quantize(node: Node, x: Any, scale: Any, zero_point: Any = None) -> Any:
    import tensorflow as tf

    dtype = zero_point.dtype if zero_point is not None else to_dtype(node.get("output_dtype", 0) or 2)
    scale, zero_point = _along_axis(node, x, scale), _along_axis(node, x, zero_point)
    shifted = tf.math.round(tf.cast(x, scale.dtype) / scale)
    if zero_point is not None:
        shifted += tf.cast(zero_point, scale.dtype)
    return tf.cast(tf.clip_by_value(shifted, float(dtype.min), float(dtype.max)), dtype)


@operator("DequantizeLinear")
def _dequantize(node: Node, x: Any, scale: Any, zero_point: Any = None) -> Any:
    import tensorflow as tf

    scale, zero_point = _along_axis(node, x, scale), _along_axis(node, x, zero_point)
    values = tf.cast(x, scale.dtype)
    if zero_point is not None:
        values -= tf.cast(zero_point, scale.dtype)
    return values * scale


def _along_axis(node: Node, x: Any, value: Any) -> Any:
    """Shape a scale or zero point so that it meets the axis it belongs to."""
    import tensorflow as tf

    if value is None or value.shape.rank == 0:
        return value
    if node.get("block_size", 0) or value.shape.rank != 1:
        raise node.refuse("it quantizes in blocks")
    if value.shape[0] == 1:
        return tf.reshape(value, [])
    axis = node.get("axis", 1) % x.shape.rank
    return tf.reshape(value, [-1 if i == axis else 1 for i in range(x.shape.rank)])


@operator("MatMulInteger")
def _matrix_product(node: Node, a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> Any:
    """Multiply in float32, where TFLite has no product of integers: exact up to some 250 products of bytes."""
    import tensorflow as tf

    def shifted(x: Any, zero_point: Any, axis: int) -> Any:
        if zero_point is None:
            return tf.cast(x, tf.float32)
        if zero_point.shape.rank == 1 and zero_point.shape[0] != 1:
            zero_point = tf.expand_dims(zero_point, axis)
        return tf.cast(x, tf.float32) - tf.cast(zero_point, tf.float32)

    return tf.cast(tf.matmul(shifted(a, a_zero_point, 1), shifted(b, b_zero_point, 0)), tf.int32)
