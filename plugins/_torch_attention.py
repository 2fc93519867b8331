"""Attention written out in plain operators, for exporters that know no attention operator."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute `torch.nn.functional.scaled_dot_product_attention` in evaluation mode.

    Args:
        query: [..., heads, target, size].
        key: [..., heads, source, size]; fewer heads than the query's where `enable_gqa`.
        value: [..., heads, source, value size].
        attn_mask: Broadcast to [..., target, source]: added where floating, kept where True.
        dropout_p: Ignored.
        is_causal: Whether a position sees only itself and those before it.
        scale: In place of 1 / sqrt(size).
        enable_gqa: Whether each head of key and value serves several heads of the query.

    Returns:
        [..., heads, target, value size].
    """
    del dropout_p
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = torch.matmul(query, key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device).unsqueeze(-1)
        attn_mask = torch.arange(key.shape[-2], device=query.device) <= rows
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Replace the attention function by `plain_attention` while a model is traced."""
    original = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = plain_attention
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = original


@contextlib.contextmanager
def no_fast_path() -> Iterator[None]:
    """Keep transformer layers from calling the fused kernels that no exporter knows."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
