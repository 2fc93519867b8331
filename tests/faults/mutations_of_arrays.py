"""How a weight is changed, as an array: for sources whose weights NumPy holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def zeros(weight: Array) -> Array:
    """Drop it."""
    return np.zeros_like(weight)


def one_weight(weight: Array) -> Array:
    """Make one weight, of middling size, a tenth larger."""
    changed = np.array(weight)
    flat = changed.reshape(-1)
    flat[np.abs(flat).argsort()[flat.size // 2]] *= flat.dtype.type(1.1)
    return changed


def fp16(weight: Array) -> Array:
    """Round to fp16."""
    return weight.astype(np.float16).astype(weight.dtype) if weight.dtype.kind == "f" else weight


def bf16(weight: Array) -> Array:
    """Round to bf16."""
    if weight.dtype != np.float32:
        return weight
    bits = np.ascontiguousarray(weight).view(np.uint32)
    return ((bits + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32)
