"""Normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, along, integer, integers, number, operator


def _normalized(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """Give x the mean 0 and the variance 1 over some axes."""
    wide = x - x.mean(axis=axes, keepdims=True, dtype=np.float64)
    variance = np.square(wide).mean(axis=axes, keepdims=True)
    return np.asarray(wide / np.sqrt(variance + epsilon))


@operator()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Any = 1e-5,
) -> Tensor:
    """Normalize every channel by a mean and a variance that are given."""
    scale = 1 / np.sqrt(variance.astype(np.float64) + number(epsilon))
    scale = scale if gamma is None else scale * gamma
    offset = (0 if beta is None else beta) - mean * scale
    return x * along(scale.astype(np.float32), 1, x.ndim) + along(offset.astype(np.float32), 1, x.ndim)


@operator()
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5) -> Tensor:
    """Normalize every channel of every element of the batch by its own mean and variance."""
    result = _normalized(x, tuple(range(2, x.ndim)), number(epsilon))
    result = result if gamma is None else result * along(gamma, 1, x.ndim)
    return result if beta is None else result + along(beta, 1, x.ndim)


@operator()
def layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5
) -> Tensor:
    """Normalize over some axes; `gamma` and `beta` have the sizes of these."""
    over = tuple(axis % x.ndim for axis in integers(axes)) if axes is not None else tuple(range(x.ndim))
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    result = _normalized(x, over, number(epsilon))
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


@operator()
def l2_norm(x: Tensor, epsilon: Any = 1e-6) -> Tensor:
    """Divide by the Euclidean norm over the last three axes."""
    total = np.square(x).sum(axis=(-3, -2, -1), keepdims=True, dtype=np.float64)
    return np.asarray(x / np.sqrt(total + number(epsilon)))


@operator()
def local_response_norm(x: Tensor, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Tensor:
    """Divide by a power of the mean square over the channels around each."""
    width = integer(size)
    around = [(0, 0), (width // 2, (width - 1) // 2), *[(0, 0)] * (x.ndim - 2)]
    squares = np.pad(np.square(x), around)
    total = np.lib.stride_tricks.sliding_window_view(squares, width, axis=1).sum(-1)
    return np.asarray(x / (number(k) + number(alpha) / width * total) ** number(beta))
