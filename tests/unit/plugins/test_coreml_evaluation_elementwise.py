"""The evaluator's elementwise operators, activations, reductions and normalizations, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.unit.plugins.coreml_evaluation_support import Case, assert_agrees, mb, numbers

X = numbers(2, 3, 4, 5)
T = torch.from_numpy(X)
P, Q = np.abs(X) + 0.1, np.clip(X, -0.9, 0.9)
Y = numbers(3, 1, 5, seed=1)
WHOLE, DIVISOR = np.array([[-7, 7, 8], [-8, 0, 5]], np.int32), np.array([[2, -2, 3], [3, 4, -3]], np.int32)
ALPHA, BETA = np.array([0.1, 0.5, 2.0], np.float32), np.array([1.5, 0.7, 0.2], np.float32)


def unary(name: str, expected, values=X, **arguments) -> Case:
    return Case(name, lambda x: getattr(mb, name)(x=x, **arguments), {"x": values}, expected)


def binary(name: str, expected, x=X, y=Y) -> Case:
    return Case(name, lambda x, y: getattr(mb, name)(x=x, y=y), {"x": x, "y": y}, expected)


def as_floats(name: str, expected, x=X, y=Y) -> Case:
    """A comparison; a program gives no booleans."""
    return Case(
        name, lambda x, y: mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32"), {"x": x, "y": y}, np.float32(expected)
    )


ELEMENTWISE = [
    *(unary(n, getattr(torch, n)(T)) for n in ("abs", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "round")),
    *(unary(n, getattr(torch, n)(T)) for n in ("sign", "sin", "sinh", "square", "tan", "tanh", "sigmoid", "relu")),
    *(unary(n, getattr(torch, n)(torch.from_numpy(Q)), Q) for n in ("acos", "asin", "atanh")),
    unary("atan", torch.atan(T)),
    unary("sqrt", np.sqrt(P), P),
    unary("log", np.log(P + 0.5), P, epsilon=0.5),
    unary("rsqrt", 1 / np.sqrt(P + 0.5), P, epsilon=0.5),
    unary("inverse", 1 / (P + 0.5), P, epsilon=0.5),
    unary("clip", T.clamp(-0.5, 0.7), alpha=-0.5, beta=0.7),
    unary("threshold", T.clamp_min(0.2), alpha=0.2),
    binary("add", X + Y),
    binary("sub", X - Y),
    binary("mul", X * Y),
    binary("real_div", X / Y),
    binary("maximum", np.maximum(X, Y)),
    binary("minimum", np.minimum(X, Y)),
    binary("pow", P**Y, P),
    binary("floor_div", torch.floor(T / torch.from_numpy(Y))),
    binary("mod", torch.remainder(T, torch.from_numpy(Y))),
    binary(
        "floor_div",
        torch.div(torch.from_numpy(WHOLE), torch.from_numpy(DIVISOR), rounding_mode="floor"),
        WHOLE,
        DIVISOR,
    ),
    binary("mod", torch.remainder(torch.from_numpy(WHOLE), torch.from_numpy(DIVISOR)), WHOLE, DIVISOR),
    binary("add", WHOLE + DIVISOR, WHOLE, DIVISOR),
    as_floats("greater", X > Y),
    as_floats("greater_equal", X >= Y),
    as_floats("less", X < Y),
    as_floats("less_equal", WHOLE <= DIVISOR, WHOLE, DIVISOR),
    as_floats("equal", WHOLE == DIVISOR, WHOLE, DIVISOR),
    as_floats("not_equal", WHOLE != DIVISOR, WHOLE, DIVISOR),
    Case(
        "logical operators and select",
        lambda x, y: mb.select(
            cond=mb.logical_xor(
                x=mb.logical_and(x=mb.greater(x=x, y=0.0), y=mb.greater(x=y, y=0.0)),
                y=mb.logical_or(x=mb.logical_not(x=mb.less(x=x, y=1.0)), y=mb.less(x=y, y=-1.0)),
            ),
            a=x,
            b=y,
        ),
        {"x": X, "y": Y},
        np.where(((X > 0) & (Y > 0)) ^ (~(X < 1) | (Y < -1)), X, Y),
    ),
    Case("cast truncates", lambda x: mb.cast(x=x, dtype="int32"), {"x": X * 3}, np.trunc(X * 3)),
]

ACTIVATIONS = [
    unary("relu6", functional.relu6(T * 5), X * 5),
    unary("clamped_relu", np.minimum(np.where(X >= 0, X, 0.3 * X), 0.8), alpha=0.3, beta=0.8),
    unary("thresholded_relu", functional.threshold(T, 0.3, 0), alpha=0.3),
    unary("leaky_relu", functional.leaky_relu(T, 0.2), alpha=0.2),
    unary("prelu", functional.prelu(T, torch.from_numpy(ALPHA)), alpha=ALPHA),
    unary("elu", functional.elu(T, 0.7), alpha=0.7),
    unary("sigmoid_hard", torch.clamp(0.3 * T + 0.4, 0, 1), alpha=0.3, beta=0.4),
    unary("silu", functional.silu(T)),
    unary("gelu", functional.gelu(T), mode="EXACT"),
    unary("gelu", functional.gelu(T, approximate="tanh"), mode="TANH_APPROXIMATION"),
    unary("gelu", T * torch.sigmoid(1.702 * T), mode="SIGMOID_APPROXIMATION"),
    unary("softplus", functional.softplus(T * 30), X * 30),
    unary(
        "softplus_parametric",
        ALPHA[:, None, None] * np.log1p(np.exp(BETA[:, None, None] * X)),
        alpha=ALPHA,
        beta=BETA,
    ),
    unary("softsign", functional.softsign(T)),
    unary("scaled_tanh", 1.3 * torch.tanh(0.4 * T), alpha=1.3, beta=0.4),
    unary("linear_activation", 1.3 * X - 0.4, alpha=1.3, beta=-0.4),
    unary("softmax", functional.softmax(T * 40, 1), X * 40, axis=1),
]

OVER = {"axes": [1, -1], "keep_dims": False}
REDUCTIONS = [
    unary("reduce_sum", T.sum((1, 3)), **OVER),
    unary("reduce_mean", T.mean((1, 3), keepdim=True), axes=[1, 3], keep_dims=True),
    unary("reduce_mean", T.mean((0, 1, 2, 3), keepdim=True), keep_dims=True),
    unary("reduce_max", T.amax((1, 3)), **OVER),
    unary("reduce_min", T.amin((1, 3)), **OVER),
    unary("reduce_prod", T.prod(2), axes=[2], keep_dims=False),
    unary("reduce_l1_norm", T.abs().sum((1, 3)), **OVER),
    unary("reduce_l2_norm", torch.linalg.vector_norm(T, dim=(1, 3)), **OVER),
    unary("reduce_log_sum", torch.from_numpy(P).sum((1, 3)).log(), P, **OVER),
    unary("reduce_log_sum_exp", torch.logsumexp(T * 50, (1, 3)), X * 50, **OVER),
    unary("reduce_sum_square", T.square().sum((1, 3)), **OVER),
    unary("reduce_argmax", T.argmax(2), axis=2, keep_dims=False),
    unary("reduce_argmin", T.argmin(-1, keepdim=True), axis=-1, keep_dims=True),
]

G, B = numbers(3, seed=3), numbers(3, seed=4)
MEAN, VARIANCE = numbers(3, seed=5), np.abs(numbers(3, seed=6)) + 0.2
TG, TB = torch.from_numpy(G), torch.from_numpy(B)
LG, LB = numbers(4, 5, seed=7), numbers(4, 5, seed=8)
NORMALIZATIONS = [
    unary(
        "batch_norm",
        functional.batch_norm(T, torch.from_numpy(MEAN), torch.from_numpy(VARIANCE), TG, TB, eps=0.01),
        mean=MEAN,
        variance=VARIANCE,
        gamma=G,
        beta=B,
        epsilon=np.float32(0.01),
    ),
    unary(
        "instance_norm",
        functional.instance_norm(T, weight=TG, bias=TB, eps=0.01),
        gamma=G,
        beta=B,
        epsilon=np.float32(0.01),
    ),
    unary(
        "layer_norm",
        functional.layer_norm(T, (4, 5), torch.from_numpy(LG), torch.from_numpy(LB), 0.01),
        axes=[2, 3],
        gamma=LG,
        beta=LB,
        epsilon=np.float32(0.01),
    ),
    unary(
        "layer_norm", functional.layer_norm(T + 300, (3, 4, 5)), X + 300, axes=[-3, -2, -1], epsilon=np.float32(1e-5)
    ),
    unary("l2_norm", X / np.sqrt(np.square(X).sum((1, 2, 3), keepdims=True) + 0.1), epsilon=np.float32(0.1)),
    unary(
        "local_response_norm",
        functional.local_response_norm(T, 3, alpha=0.5, beta=0.6, k=1.2),
        size=3,
        alpha=np.float32(0.5),
        beta=np.float32(0.6),
        k=np.float32(1.2),
    ),
]


@pytest.mark.parametrize("case", [*ELEMENTWISE, *ACTIVATIONS], ids=str)
def test_elements_are_computed_as_documented(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", REDUCTIONS, ids=str)
def test_axes_are_reduced_as_documented(case: Case):
    assert_agrees(case)


@pytest.mark.parametrize("case", NORMALIZATIONS, ids=str)
def test_normalizations_are_those_of_pytorch(case: Case):
    assert_agrees(case)
