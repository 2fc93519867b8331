"""Operators written out in plainer ones, for exporters that have no word for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn.modules import transformer as _transformer


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


def plain_unflatten(tensor: torch.Tensor, dim: int, sizes: Sequence[int]) -> torch.Tensor:
    """Compute `torch.Tensor.unflatten` with a reshape."""
    dim %= tensor.dim()
    shape = tensor.shape
    return tensor.reshape(*shape[:dim], *sizes, *shape[dim + 1 :])


def plain_triu(input: torch.Tensor, diagonal: int = 0) -> torch.Tensor:  # noqa: A002  called as torch.triu is
    """Compute `torch.triu` with a comparison."""
    return _masked(input, _columns(input) - _rows(input) >= diagonal)


def plain_tril(input: torch.Tensor, diagonal: int = 0) -> torch.Tensor:  # noqa: A002  called as torch.tril is
    """Compute `torch.tril` with a comparison."""
    return _masked(input, _columns(input) - _rows(input) <= diagonal)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return torch.arange(tensor.shape[-2], device=tensor.device).unsqueeze(-1)


def _columns(tensor: torch.Tensor) -> torch.Tensor:
    return torch.arange(tensor.shape[-1], device=tensor.device)


def _masked(tensor: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.bool:
        return tensor & kept
    return torch.where(kept, tensor, torch.zeros((), dtype=tensor.dtype))


_UNFLATTEN = ((torch.Tensor, "unflatten", plain_unflatten),)
_NEW_IN_14 = (
    (torch.nn.functional, "scaled_dot_product_attention", plain_attention),
    (torch, "triu", plain_triu),
    (torch.Tensor, "triu", plain_triu),
    (torch, "tril", plain_tril),
    (torch.Tensor, "tril", plain_tril),
)
OPERATORS = ("scaled_dot_product_attention", "unflatten", "triu", "tril")
"""Names of the operators that `written_out` replaces."""


@contextlib.contextmanager
def written_out(opset: int) -> Iterator[None]:
    """Replace what the ONNX exporter on TorchScript cannot write at an opset, while a model is traced.

    Args:
        opset: The opset to be written. Attention and triangles are known from 14 on; of an unflattened
            tensor it forgets the rank at any.
    """
    with contextlib.ExitStack() as stack:
        for place, name, plain in (*_UNFLATTEN, *(_NEW_IN_14 if opset < 14 else ())):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, plain)
        yield


@contextlib.contextmanager
def no_fast_path() -> Iterator[None]:
    """Keep transformer layers from calling the fused kernels that no exporter knows.

    For these they also compare their mask with a causal one, which is a decision on data.
    """
    enabled, asked = torch.backends.mha.get_fastpath_enabled(), _transformer._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    _transformer._detect_is_causal_mask = _said_to_be_causal
    try:
        yield
    finally:
        _transformer._detect_is_causal_mask = asked
        torch.backends.mha.set_fastpath_enabled(enabled)


def _said_to_be_causal(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Take a mask for a causal one only where the author says so: any other is applied as it is."""
    del mask, size
    return is_causal is True
