"""Activation functions."""

from __future__ import annotations

from typing import Any

from registry_export_plugins._onnx_to_tf.common import Node, operator, static


@operator("LeakyRelu", elementwise=True)
def _leaky_relu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu", elementwise=True)
def _prelu(node: Node, x: Any, slope: Any) -> Any:
    import tensorflow as tf

    return tf.maximum(x, 0) + slope * tf.minimum(x, 0)


@operator("Elu", elementwise=True)
def _elu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    alpha = node.get("alpha", 1.0)
    if alpha == 1.0:
        return tf.nn.elu(x)
    return tf.maximum(x, 0) + alpha * (tf.exp(tf.minimum(x, 0)) - 1)


@operator("Celu", elementwise=True)
def _celu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    alpha = node.get("alpha", 1.0)
    return tf.maximum(x, 0) + tf.minimum(alpha * (tf.exp(tf.minimum(x, 0) / alpha) - 1), 0)


@operator("Selu", elementwise=True)
def _selu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return gamma * (tf.maximum(x, 0) + alpha * (tf.exp(tf.minimum(x, 0)) - 1))


@operator("ThresholdedRelu", elementwise=True)
def _thresholded_relu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.where(x > node.get("alpha", 1.0), x, tf.zeros([], x.dtype))


@operator("HardSigmoid", elementwise=True)
def _hard_sigmoid(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.clip_by_value(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


@operator("HardSwish", elementwise=True)
def _hard_swish(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return x * tf.nn.relu6(x + 3) * (1 / 6)


@operator("Swish", elementwise=True)
def _swish(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return x * tf.sigmoid(node.get("alpha", 1.0) * x)


@operator("Mish", elementwise=True)
def _mish(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return x * tf.tanh(tf.math.softplus(x))


@operator("Gelu", elementwise=True)
def _gelu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.gelu(x, node.get("approximate") == "tanh")


@operator("Gelu", elementwise=True, domain="com.microsoft")
def _microsoft_gelu(node: Node, x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.gelu(x, approximate=False)


@operator("FastGelu", "BiasGelu", elementwise=True, domain="com.microsoft")
def _biased_gelu(node: Node, x: Any, bias: Any = None) -> Any:
    import tensorflow as tf

    return tf.nn.gelu(x if bias is None else x + bias, node.op_type == "FastGelu")


@operator("Shrink", elementwise=True)
def _shrink(node: Node, x: Any) -> Any:
    import tensorflow as tf

    bound, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    zero = tf.zeros([], x.dtype)
    limit, shift = tf.cast(bound, x.dtype), tf.cast(bias, x.dtype)
    return tf.where(x < -limit, x + shift, tf.where(x > limit, x - shift, zero))


@operator("Dropout")
def _dropout(node: Node, x: Any, ratio: Any = None, training: Any = None) -> list[Any]:
    import tensorflow as tf

    if training is not None:
        known = static(training)
        if known is None or bool(known):
            raise node.refuse("it drops elements at random")
    return [x, tf.ones(tf.shape(x), tf.bool)]
