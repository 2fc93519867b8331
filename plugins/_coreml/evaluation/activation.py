"""Activation functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.error_function import erf
from registry_export_plugins._coreml.evaluation.registry import Tensor, along, integer, operator, unknown


@operator()
def relu(x: Tensor) -> Tensor:
    """Compute max(x, 0)."""
    return np.maximum(x, 0)


@operator()
def relu6(x: Tensor) -> Tensor:
    """Keep x between 0 and 6."""
    return np.minimum(np.maximum(x, 0), 6)


@operator()
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute min(beta, x), of alpha * x where x is negative."""
    return np.minimum(np.where(x >= 0, x, alpha * x), beta)


@operator()
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """Keep x where it is at least alpha; 0 elsewhere."""
    return np.where(x < alpha, np.zeros_like(x), x)


@operator()
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """Scale negative elements by alpha."""
    return np.where(x < 0, alpha * x, x)


@operator()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Scale negative elements by their channel's alpha."""
    return np.where(x < 0, along(alpha, 1, x.ndim) * x, x)


@operator()
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """Compute alpha * (exp(x) - 1) of negative elements."""
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


@operator()
def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-x)))


@operator()
def sigmoid_hard(x: Tensor, alpha: Any = 0.2, beta: Any = 0.5) -> Tensor:
    """Keep alpha * x + beta between 0 and 1."""
    return np.minimum(np.maximum(np.float32(alpha) * x + np.float32(beta), 0), 1)


@operator()
def silu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(x)."""
    return np.asarray(x / (1 + np.exp(-x)))


@operator()
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Compute the Gaussian error linear unit, or one of its approximations."""
    if mode == "EXACT":
        return np.asarray(0.5 * x * (1 + erf(x / np.float32(np.sqrt(2)))))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3))))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x / (1 + np.exp(-1.702 * x)))
    raise unknown(f"gelu in mode {mode}")


@operator()
def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x))."""
    return np.logaddexp(np.zeros_like(x), x)


@operator()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute alpha * log(1 + exp(beta * x)), with each channel's alpha and beta."""
    return np.asarray(along(alpha, 1, x.ndim) * np.logaddexp(np.zeros_like(x), along(beta, 1, x.ndim) * x))


@operator()
def softsign(x: Tensor) -> Tensor:
    """Compute x / (1 + |x|)."""
    return np.asarray(x / (1 + np.abs(x)))


@operator()
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute alpha * tanh(beta * x)."""
    return np.asarray(alpha * np.tanh(beta * x))


@operator()
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute alpha * x + beta."""
    return np.asarray(alpha * x + beta)


@operator()
def softmax(x: Tensor, axis: Any = -1) -> Tensor:
    """Compute exp(x) over its sum along an axis."""
    axis = integer(axis)
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))
