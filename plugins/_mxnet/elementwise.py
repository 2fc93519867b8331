"""Operators that go element by element. MXNet's comparisons answer in the type of what is compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.files import Node

Translate = Callable[[Builder, Node, list[str]], str | tuple[str, ...]]
Binary = Callable[[Builder, str, str], str]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_RRELU_LOWER, _RRELU_UPPER = 0.125, 0.334


def _plain(kind: str) -> Binary:
    return lambda b, x, y: b.op(kind, x, y)


def _compare(kind: str, *, negate: bool = False) -> Binary:
    def apply(b: Builder, x: str, y: str) -> str:
        found = b.op(kind, x, y)
        return b.cast(b.op("Not", found) if negate else found, b.dtype(x))

    return apply


def _logical(kind: str) -> Binary:
    return lambda b, x, y: b.cast(b.op(kind, b.cast(x, bool), b.cast(y, bool)), b.dtype(x))


def _mod(b: Builder, x: str, y: str) -> str:
    """The remainder with the sign of the divisor."""
    return b.op("Sub", x, b.op("Mul", b.op("Floor", b.op("Div", x, y)), y))


def _hypot(b: Builder, x: str, y: str) -> str:
    return b.op("Sqrt", b.op("Add", b.op("Mul", x, x), b.op("Mul", y, y)))


_BINARY: dict[str, Binary] = {
    "add": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "div": _plain("Div"),
    "mod": _mod,
    "power": _plain("Pow"),
    "maximum": _plain("Max"),
    "minimum": _plain("Min"),
    "hypot": _hypot,
    "equal": _compare("Equal"),
    "not_equal": _compare("Equal", negate=True),
    "greater": _compare("Greater"),
    "greater_equal": _compare("GreaterOrEqual"),
    "lesser": _compare("Less"),
    "lesser_equal": _compare("LessOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
}

_ALIASES = {"plus": "add", "minus": "sub"}


def _of_two(apply: Binary) -> Translate:
    return lambda b, node, inputs: apply(b, inputs[0], inputs[1])


def _of_scalar(apply: Binary, *, reverse: bool = False) -> Translate:
    def translate(b: Builder, node: Node, inputs: list[str]) -> str:
        scalar = b.like(node.get("scalar", 0.0), inputs[0])
        return apply(b, scalar, inputs[0]) if reverse else apply(b, inputs[0], scalar)

    return translate


def _binary_table() -> dict[str, Translate]:
    table: dict[str, Translate] = {}
    for name, apply in {**_BINARY, **{alias: _BINARY[name] for alias, name in _ALIASES.items()}}.items():
        for spelling in (f"elemwise_{name}", f"broadcast_{name}", f"_{name}", f"_{name.title()}"):
            table[spelling] = _of_two(apply)
        for spelling in (f"_{name}_scalar", f"_{name.title()}Scalar"):
            table[spelling] = _of_scalar(apply)
        for spelling in (f"_r{name}_scalar", f"_R{name.title()}Scalar"):
            table[spelling] = _of_scalar(apply, reverse=True)
    return table


def _power(b: Builder, x: str, exponent: float) -> str:
    return b.op("Pow", x, b.like(exponent, x))


def _inverse(b: Builder, x: str) -> str:
    return b.op("Reciprocal", x)


def _cube_root(b: Builder, x: str) -> str:
    return b.op("Mul", b.op("Sign", x), _power(b, b.op("Abs", x), 1 / 3))


def _truncated(b: Builder, x: str) -> str:
    return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Abs", x)))


def _rounded(b: Builder, x: str) -> str:
    """Half away from zero."""
    return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Add", b.op("Abs", x), b.like(0.5, x))))


def _nearest(b: Builder, x: str) -> str:
    """Half downwards: what MXNet's `rint` does."""
    return b.op("Ceil", b.op("Sub", x, b.like(0.5, x)))


def _scaled(b: Builder, x: str, factor: float) -> str:
    return b.op("Mul", x, b.like(factor, x))


def _filled(b: Builder, x: str, value: float) -> str:
    return b.op("Expand", b.like(value, x), b.op("Shape", x))


_UNARY: dict[str, Callable[[Builder, str], str]] = {
    **{
        kind.lower(): (lambda b, x, kind=kind: b.op(kind, x))  # type: ignore[misc]
        for kind in ("Abs", "Sign", "Floor", "Ceil", "Exp", "Log", "Sqrt", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Tanh")
    },
    **{
        f"arc{kind[1:]}": (lambda b, x, kind=kind: b.op(kind.title(), x))  # type: ignore[misc]
        for kind in ("asin", "acos", "atan", "asinh", "acosh", "atanh")
    },
    "erf": lambda b, x: b.op("Erf", x),
    "relu": lambda b, x: b.op("Relu", x),
    "sigmoid": lambda b, x: b.op("Sigmoid", x),
    "softsign": lambda b, x: b.op("Softsign", x),
    "negative": lambda b, x: b.op("Neg", x),
    "reciprocal": _inverse,
    "square": lambda b, x: b.op("Mul", x, x),
    "rsqrt": lambda b, x: _inverse(b, b.op("Sqrt", x)),
    "cbrt": _cube_root,
    "rcbrt": lambda b, x: _inverse(b, _cube_root(b, x)),
    "expm1": lambda b, x: b.op("Sub", b.op("Exp", x), b.like(1, x)),
    "log1p": lambda b, x: b.op("Log", b.op("Add", x, b.like(1, x))),
    "log2": lambda b, x: _scaled(b, b.op("Log", x), 1 / math.log(2)),
    "log10": lambda b, x: _scaled(b, b.op("Log", x), 1 / math.log(10)),
    "degrees": lambda b, x: _scaled(b, x, 180 / math.pi),
    "radians": lambda b, x: _scaled(b, x, math.pi / 180),
    "fix": _truncated,
    "trunc": _truncated,
    "round": _rounded,
    "rint": _nearest,
    "logical_not": lambda b, x: b.cast(b.op("Not", b.cast(x, bool)), b.dtype(x)),
    "zeros_like": lambda b, x: _filled(b, x, 0),
    "ones_like": lambda b, x: _filled(b, x, 1),
    **dict.fromkeys(
        ("_copy", "identity", "BlockGrad", "stop_gradient", "MakeLoss", "make_loss", "Dropout", "SVMOutput"),
        lambda b, x: x,
    ),
    **dict.fromkeys(("LinearRegressionOutput", "MAERegressionOutput", "IdentityAttachKLSparseReg"), lambda b, x: x),
    "LogisticRegressionOutput": lambda b, x: b.op("Sigmoid", x),
}


def _of_one(apply: Callable[[Builder, str], str]) -> Translate:
    return lambda b, node, inputs: apply(b, inputs[0])


def _activation(b: Builder, node: Node, inputs: list[str]) -> str:
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
    kind = node.get("act_type")
    if kind not in kinds:
        raise node.unsupported(f"of act_type {kind} has no translation to ONNX here")
    return b.op(kinds[kind], inputs[0])


def _leaky(b: Builder, node: Node, inputs: list[str]) -> str:
    x, kind = inputs[0], node.get("act_type", "leaky")
    slope = float(node.get("slope", 0.25))
    if kind == "prelu":
        size = b.shape(inputs[1])[0]
        ones = [1] * (b.rank(x) - 2) if size != 1 else []
        return b.op("PRelu", x, b.op("Reshape", inputs[1], b.integers(-1, *ones)))
    if kind == "gelu":
        half = _scaled(b, x, 0.5)
        return b.op("Mul", half, b.op("Add", b.op("Erf", _scaled(b, x, math.sqrt(0.5))), b.like(1, x)))
    if kind == "elu":
        return b.op("Elu", x, alpha=slope)
    if kind == "selu":
        return b.op("Selu", x, alpha=_SELU_ALPHA, gamma=_SELU_SCALE)
    if kind == "rrelu":  # at inference the mean of the slopes that training draws
        slope = (node.get("lower_bound", _RRELU_LOWER) + node.get("upper_bound", _RRELU_UPPER)) / 2
    elif kind != "leaky":
        raise node.unsupported(f"of act_type {kind} has no translation to ONNX here")
    return b.op("LeakyRelu", x, alpha=slope)


def _hard_sigmoid(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("HardSigmoid", inputs[0], alpha=float(node.get("alpha", 0.2)), beta=float(node.get("beta", 0.5)))


def _clip(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    return b.op("Clip", x, b.like(node.get("a_min"), x), b.like(node.get("a_max"), x))


def _smooth_l1(b: Builder, node: Node, inputs: list[str]) -> str:
    x, sigma2 = inputs[0], float(node.get("scalar", 1.0)) ** 2
    size = b.op("Abs", x)
    inner = _scaled(b, b.op("Mul", x, x), 0.5 * sigma2)
    return b.op("Where", b.op("Less", size, b.like(1 / sigma2, x)), inner, b.op("Sub", size, b.like(0.5 / sigma2, x)))


def _cast(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.cast(inputs[0], np.dtype(str(node.get("dtype", "float32"))))


def _where(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Where", b.cast(inputs[0], bool), inputs[1], inputs[2])


def _sum_of_all(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Sum", *inputs)


def _div_sqrt_dim(b: Builder, node: Node, inputs: list[str]) -> str:
    size = b.shape(inputs[0])[-1]
    if not isinstance(size, int):
        raise node.unsupported("needs a fixed last dimension")
    return _scaled(b, inputs[0], 1 / math.sqrt(size))


OPERATORS: dict[str, Translate] = {
    **_binary_table(),
    **{name: _of_one(apply) for name, apply in _UNARY.items()},
    "Activation": _activation,
    "LeakyReLU": _leaky,
    "hard_sigmoid": _hard_sigmoid,
    "clip": _clip,
    "smooth_l1": _smooth_l1,
    "Cast": _cast,
    "cast": _cast,
    "amp_cast": _cast,
    "where": _where,
    "add_n": _sum_of_all,
    "ElementWiseSum": _sum_of_all,
    "_contrib_div_sqrt_dim": _div_sqrt_dim,
}
