"""Products of matrices."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, flag, operator, unknown


@operator()
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x * weight^T + bias."""
    result = np.matmul(x, weight.T)
    return result if bias is None else result + bias


@operator()
def matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    """Multiply matrices, those of the last two axes."""
    x = np.swapaxes(x, -1, -2) if flag(transpose_x) else x
    y = np.swapaxes(y, -1, -2) if flag(transpose_y) else y
    return np.asarray(np.matmul(x, y))


@operator()
def einsum(values: tuple[Tensor, ...], equation: str) -> Tensor:
    """Compute Einstein's sum; an axis of one element is broadcast."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(values) or not set("".join(terms)) <= set(string.ascii_letters):
        raise unknown(f"einsum of {equation[:60]}")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, size in zip(term, value.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    spread = [
        np.broadcast_to(value, [sizes[letter] for letter in term]) for term, value in zip(terms, values, strict=True)
    ]
    return np.asarray(np.einsum(equation, *spread, optimize=True))
