"""Operators that exchange positions in images with channels or with the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, integer, integers, operator


@operator(exact=True)
def depth_to_space(x: Tensor, block_size: Any) -> Tensor:
    """Spread channels over blocks of positions, the position in the block before the channel, as TensorFlow does."""
    size = integer(block_size)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, size, size, channels // size**2, height, width)
    return parts.transpose(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * size, width * size)


@operator(exact=True)
def space_to_depth(x: Tensor, block_size: Any) -> Tensor:
    """Undo `depth_to_space`."""
    size = integer(block_size)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // size, width // size)


@operator(exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: Any) -> Tensor:
    """Spread channels over blocks of positions, the channel before the position in the block, as PyTorch does."""
    size = integer(upscale_factor)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels // size**2, size, size, height, width)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * size, width * size)


@operator(exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: Any) -> Tensor:
    """Undo `pixel_shuffle`."""
    size = integer(downscale_factor)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, height // size, width // size)


@operator(exact=True)
def space_to_batch(x: Tensor, block_shape: Any, paddings: Any) -> Tensor:
    """Spread blocks of positions over the batch, after padding with zeros."""
    down, across = integers(block_shape)
    top, bottom, left, right = integers(paddings)
    x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // down, down, width // across, across)
    return parts.transpose(3, 5, 0, 1, 2, 4).reshape(-1, channels, height // down, width // across)


@operator(exact=True)
def batch_to_space(x: Tensor, block_shape: Any, crops: Any) -> Tensor:
    """Undo `space_to_batch`; cut the sides off."""
    down, across = integers(block_shape)
    top, bottom, left, right = integers(crops)
    _, channels, height, width = x.shape
    parts = x.reshape(down, across, -1, channels, height, width)
    whole = parts.transpose(2, 3, 4, 0, 5, 1).reshape(-1, channels, height * down, width * across)
    return whole[:, :, top : height * down - bottom, left : width * across - right]
