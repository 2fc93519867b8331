"""Operators that work on each element by itself, with one input or two."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.error_function import erf as erf_of
from registry_export_plugins._coreml.evaluation.registry import Tensor, operator

_UNARY = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": erf_of,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
_BINARY = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "real_div": np.true_divide,
    "sub": np.subtract,
}


def _declare_unary(name: str, compute: Any) -> None:
    @operator(name)
    def unary(x: Tensor) -> Tensor:
        return np.asarray(compute(x))


def _declare_binary(name: str, compute: Any) -> None:
    @operator(name)
    def binary(x: Tensor, y: Tensor) -> Tensor:
        return np.asarray(compute(x, y))


for _name, _compute in _UNARY.items():
    _declare_unary(_name, _compute)
for _name, _compute in _BINARY.items():
    _declare_binary(_name, _compute)


@operator("pow")
def power(x: Tensor, y: Tensor) -> Tensor:
    """Compute x to the power of y; NumPy refuses whole numbers with negative exponents."""
    whole = np.result_type(x, y).kind in "iu"
    return np.power(x.astype(np.float64), y) if whole else np.power(x, y)


@operator()
def cast(x: Tensor, dtype: str) -> Tensor:
    """Leave x as it is: a result is stored in the element type that the program tells, which is `dtype`."""
    return x


@operator(exact=True)
def identity(x: Any) -> Any:
    """Return x."""
    return x


@operator()
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Keep x between alpha and beta."""
    return np.minimum(np.maximum(x, alpha), beta)


@operator()
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """Keep x from being less than alpha."""
    return np.maximum(x, alpha)


@operator()
def inverse(x: Tensor, epsilon: Any = 1e-4) -> Tensor:
    """Compute 1 / (x + epsilon)."""
    return np.asarray(1 / (x + np.float32(epsilon)))


@operator()
def log(x: Tensor, epsilon: Any = 1e-45) -> Tensor:
    """Compute the natural logarithm of x + epsilon."""
    return np.asarray(np.log(x + np.float32(epsilon)))


@operator()
def rsqrt(x: Tensor, epsilon: Any = 1e-12) -> Tensor:
    """Compute 1 / sqrt(x + epsilon)."""
    return np.asarray(1 / np.sqrt(x + np.float32(epsilon)))


@operator(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Take a where `cond` is true, b elsewhere."""
    return np.where(cond, a, b)
