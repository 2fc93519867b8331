"""Normalization layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import Image, Node, operator, plain, sizes, static


@operator("BatchNormalization", images=True)
def _batch_normalization(node: Node, x: Any, *parameters: Any) -> Any:
    import tensorflow as tf

    if node.get("training_mode", 0) or (node.opset < 14 and len([name for name in node.outputs if name]) > 1):
        raise node.refuse("it is in training mode")
    image = x if isinstance(x, Image) else None
    values = image.last if image else plain(x)
    rank = values.shape.rank
    known = [static(value) for value in parameters]
    # In NumPy where the weights are known, which they nearly always are: nothing of it enters the graph.
    scale, offset, mean, variance = (
        known if all(value is not None for value in known) else [plain(value) for value in parameters]
    )
    factor = scale / (variance + node.get("epsilon", 1e-5)) ** 0.5
    shift = offset - mean * factor
    if image is None and rank > 2:
        factor, shift = (
            value.reshape(-1, *[1] * (rank - 2))
            if isinstance(value, np.ndarray)
            else tf.reshape(value, [-1] + [1] * (rank - 2))
            for value in (factor, shift)
        )
    factor, shift = tf.cast(factor, values.dtype), tf.cast(shift, values.dtype)
    result = values * factor + shift
    return Image(result) if image else result


def _standardized(x: Any, axes: list[int], epsilon: float) -> tuple[Any, Any, Any]:
    """Subtract the mean and divide by the standard deviation, over some axes; return both too."""
    import tensorflow as tf

    mean = tf.reduce_mean(x, axes, keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
    return centred * tf.math.rsqrt(variance + tf.cast(epsilon, x.dtype)), mean, variance


@operator("InstanceNormalization")
def _instance_normalization(node: Node, x: Any, scale: Any, offset: Any) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    normal, _, _ = _standardized(x, list(range(2, rank)), node.get("epsilon", 1e-5))
    factor, shift = (tf.reshape(value, [-1] + [1] * (rank - 2)) for value in (scale, offset))
    return normal * factor + shift


@operator("GroupNormalization")
def _group_normalization(node: Node, x: Any, scale: Any, offset: Any) -> Any:
    import tensorflow as tf

    rank, groups = x.shape.rank, node.get("num_groups")
    batch, channels, *space = sizes(x)
    grouped = tf.reshape(x, [batch, groups, channels // groups, *space])
    normal, _, _ = _standardized(grouped, list(range(2, rank + 1)), node.get("epsilon", 1e-5))
    if scale.shape[0] == groups and groups != channels:
        # Opset 18 scales each group; 21 each channel.
        factor, shift = (tf.reshape(value, [groups] + [1] * (rank - 1)) for value in (scale, offset))
        return tf.reshape(normal * factor + shift, [-1, channels, *space])
    flat = tf.reshape(normal, [-1, channels, *space])
    factor, shift = (tf.reshape(value, [-1] + [1] * (rank - 2)) for value in (scale, offset))
    return flat * factor + shift


@operator("LayerNormalization")
def _layer_normalization(node: Node, x: Any, scale: Any, offset: Any = None) -> list[Any]:
    import tensorflow as tf

    rank = x.shape.rank
    axes = list(range(node.get("axis", -1) % rank, rank))
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) and node.get("stash_type", 1) == 1 else x
    normal, mean, variance = _standardized(wide, axes, node.get("epsilon", 1e-5))
    result = tf.cast(normal, x.dtype) * scale
    deviation = tf.math.rsqrt(variance + tf.cast(node.get("epsilon", 1e-5), variance.dtype))
    return [result if offset is None else result + offset, mean, deviation]


@operator("SimplifiedLayerNormalization")
@operator("RMSNormalization")
def _rms_normalization(node: Node, x: Any, scale: Any) -> Any:
    import tensorflow as tf

    rank = x.shape.rank
    axes = list(range(node.get("axis", -1) % rank, rank))
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    square = tf.reduce_mean(tf.square(wide), axes, keepdims=True)
    return tf.cast(wide * tf.math.rsqrt(square + tf.cast(node.get("epsilon", 1e-5), wide.dtype)), x.dtype) * scale


@operator("LpNormalization")
def _lp_normalization(node: Node, x: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis", -1)
    if node.get("p", 2) == 1:
        norm = tf.reduce_sum(tf.abs(x), axis, keepdims=True)
    else:
        norm = tf.sqrt(tf.reduce_sum(tf.square(x), axis, keepdims=True))
    return tf.math.divide_no_nan(x, norm)


@operator("LRN")
def _local_response(node: Node, x: Any) -> Any:
    import tensorflow as tf

    size = node.get("size")
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = tf.pad(tf.square(x), [(0, 0), (before, after)] + [(0, 0)] * (x.shape.rank - 2))
    channels = sizes(x)[1]
    total = sum(squares[:, i : i + channels] for i in range(size))
    return x / tf.pow(node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total, node.get("beta", 0.75))
