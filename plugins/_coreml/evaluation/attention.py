"""Attention."""

from __future__ import annotations

import numpy as np

from registry_export_plugins._coreml.evaluation.activation import softmax
from registry_export_plugins._coreml.evaluation.registry import Tensor, operator


@operator()
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Compute softmax(Q K^T / sqrt(E) + mask) V; a mask of booleans says what takes part."""
    scores = np.matmul(query / np.sqrt(np.float32(query.shape[-1])), np.swapaxes(key, -1, -2))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = np.where(attn_mask, scores, -np.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return np.matmul(softmax(scores), value)
