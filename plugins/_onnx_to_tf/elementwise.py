"""Operators that treat every element alike: arithmetic, comparisons, logic, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import Node, operator, static, to_dtype

ERF_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
"""The rational approximation of erf in float32 that Eigen and XLA use, within 5e-7; its argument is at most 4."""


def _unary(name: str, find: Callable[[Any], Callable[[Any], Any]]) -> None:
    """Register an operator of one input that TensorFlow has under some name."""

    @operator(name, elementwise=True)
    def translate(node: Node, x: Any) -> Any:
        import tensorflow as tf

        return find(tf)(x)


def _binary(name: str, find: Callable[[Any], Callable[[Any, Any], Any]]) -> None:
    """Register an operator of two inputs that TensorFlow has under some name."""

    @operator(name, elementwise=True)
    def translate(node: Node, x: Any, y: Any) -> Any:
        import tensorflow as tf

        return find(tf)(x, y)


for _name, _find in {
    "Abs": lambda tf: tf.abs,
    "Acos": lambda tf: tf.acos,
    "Acosh": lambda tf: tf.acosh,
    "Asin": lambda tf: tf.asin,
    "Asinh": lambda tf: tf.asinh,
    "Atan": lambda tf: tf.atan,
    "Atanh": lambda tf: tf.atanh,
    "BitwiseNot": lambda tf: tf.bitwise.invert,
    "Ceil": lambda tf: tf.math.ceil,
    "Cos": lambda tf: tf.cos,
    "Cosh": lambda tf: tf.cosh,
    "Exp": lambda tf: tf.exp,
    "Floor": lambda tf: tf.math.floor,
    "Identity": lambda tf: tf.identity,
    "IsNaN": lambda tf: tf.math.is_nan,
    "Log": lambda tf: tf.math.log,
    "Neg": lambda tf: tf.negative,
    "Not": lambda tf: tf.logical_not,
    "Reciprocal": lambda tf: tf.math.reciprocal,
    "Relu": lambda tf: tf.nn.relu,
    "Round": lambda tf: tf.math.round,
    "Sigmoid": lambda tf: tf.sigmoid,
    "Sign": lambda tf: tf.sign,
    "Sin": lambda tf: tf.sin,
    "Sinh": lambda tf: tf.sinh,
    "Softplus": lambda tf: tf.math.softplus,
    "Softsign": lambda tf: tf.nn.softsign,
    "Sqrt": lambda tf: tf.sqrt,
    "Tan": lambda tf: tf.tan,
    "Tanh": lambda tf: tf.tanh,
}.items():
    _unary(_name, _find)

for _name, _pair in {
    "Add": lambda tf: tf.add,
    "And": lambda tf: tf.logical_and,
    "BitwiseAnd": lambda tf: tf.bitwise.bitwise_and,
    "BitwiseOr": lambda tf: tf.bitwise.bitwise_or,
    "BitwiseXor": lambda tf: tf.bitwise.bitwise_xor,
    "Equal": lambda tf: tf.equal,
    "Greater": lambda tf: tf.greater,
    "GreaterOrEqual": lambda tf: tf.greater_equal,
    "Less": lambda tf: tf.less,
    "LessOrEqual": lambda tf: tf.less_equal,
    "Mul": lambda tf: tf.multiply,
    "Or": lambda tf: tf.logical_or,
    "Sub": lambda tf: tf.subtract,
    "Xor": lambda tf: tf.math.logical_xor,
}.items():
    _binary(_name, _pair)


def erf(x: Any) -> Any:
    """Compute the error function; in float32 with operations that every runtime has."""
    import tensorflow as tf

    if x.dtype != tf.float32:
        return tf.math.erf(x)
    bounded = tf.clip_by_value(x, -4.0, 4.0)
    square = bounded * bounded
    upper, lower = (polynomial(coefficients, square) for coefficients in (ERF_NUMERATOR, ERF_DENOMINATOR))
    return bounded * upper / lower


def polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    """Evaluate a polynomial by Horner's rule, the highest power first."""
    result: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


@operator("Erf", elementwise=True)
def _erf(node: Node, x: Any) -> Any:
    return erf(x)


@operator("Div", elementwise=True)
def _div(node: Node, x: Any, y: Any) -> Any:
    import tensorflow as tf

    if not x.dtype.is_integer:
        return tf.divide(x, y)
    # ONNX rounds towards zero, as C does.
    quotient = tf.math.floordiv(x, y)
    if x.dtype.is_unsigned:
        return quotient
    inexact = tf.logical_and(tf.not_equal(quotient * y, x), tf.not_equal(x < 0, y < 0))
    return tf.where(inexact, quotient + 1, quotient)


@operator("Mod", elementwise=True)
def _mod(node: Node, x: Any, y: Any) -> Any:
    import tensorflow as tf

    if not node.get("fmod", 0):
        return tf.math.floormod(x, y)
    if x.dtype.is_floating:
        quotient = x / y
        truncated = tf.where(quotient < 0, tf.math.ceil(quotient), tf.math.floor(quotient))
        return x - truncated * y
    return x - _div(node, x, y) * y


@operator("Pow", elementwise=True)
def _pow(node: Node, x: Any, y: Any) -> Any:
    import tensorflow as tf

    exponent = static(y)
    if exponent is not None and exponent.size == 1 and x.dtype.is_floating and exponent.ndim <= (x.shape.rank or 0):
        power = float(exponent.reshape(()))
        if power in (0.5, 2.0):
            return tf.square(x) if power == 2.0 else tf.sqrt(x)
    if x.dtype.is_integer and y.dtype.is_floating:
        return tf.cast(tf.pow(tf.cast(x, y.dtype), y), x.dtype)
    return tf.pow(x, tf.cast(y, x.dtype))


@operator("BitShift", elementwise=True)
def _bit_shift(node: Node, x: Any, y: Any) -> Any:
    import tensorflow as tf

    left = node.get("direction") == "LEFT"
    return tf.bitwise.left_shift(x, y) if left else tf.bitwise.right_shift(x, y)


def _folded(name: str, combine: Callable[[Any, Any, Any], Any], mean: bool = False) -> None:
    """Register an operator of any number of inputs."""

    @operator(name, elementwise=True)
    def translate(node: Node, *inputs: Any) -> Any:
        import tensorflow as tf

        result = inputs[0]
        for value in inputs[1:]:
            result = combine(tf, result, value)
        return result / len(inputs) if mean else result


_folded("Max", lambda tf, x, y: tf.maximum(x, y))
_folded("Min", lambda tf, x, y: tf.minimum(x, y))
_folded("Sum", lambda tf, x, y: x + y)
_folded("Mean", lambda tf, x, y: x + y, mean=True)


@operator("Where", elementwise=True)
def _where(node: Node, condition: Any, x: Any, y: Any) -> Any:
    import tensorflow as tf

    return tf.where(condition, x, y)


@operator("IsInf", elementwise=True)
def _is_inf(node: Node, x: Any) -> Any:
    import tensorflow as tf

    infinite = tf.math.is_inf(x)
    if not node.get("detect_positive", 1):
        infinite = tf.logical_and(infinite, x < 0)
    if not node.get("detect_negative", 1):
        infinite = tf.logical_and(infinite, x > 0)
    return infinite


@operator("Cast", elementwise=True)
def _cast(node: Node, x: Any) -> Any:
    return cast(x, to_dtype(node.get("to")))


@operator("CastLike", elementwise=True)
def _cast_like(node: Node, x: Any, like: Any) -> Any:
    return cast(x, like.dtype)


def cast(x: Any, dtype: Any) -> Any:
    """Convert elements as ONNX does: what is not zero is true."""
    import tensorflow as tf

    if dtype == tf.bool and x.dtype != tf.bool:
        return tf.not_equal(x, tf.zeros([], x.dtype))
    return tf.cast(x, dtype)


@operator("Clip", elementwise=True)
def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    import tensorflow as tf

    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    if _is(low, 0.0) and _is(high, 6.0) and x.dtype.is_floating:
        return tf.nn.relu6(x)
    if low is not None:
        x = tf.maximum(x, _scalar(low, x.dtype))
    return x if high is None else tf.minimum(x, _scalar(high, x.dtype))


def _is(value: Any, number: float) -> bool:
    known = value if isinstance(value, float) else static(value)
    return known is not None and np.size(known) == 1 and float(np.reshape(known, ())) == number


def _scalar(value: Any, dtype: Any) -> Any:
    """Give a bound the element type of what it bounds, and no axes of its own."""
    import tensorflow as tf

    return tf.reshape(tf.cast(value, dtype), [])
