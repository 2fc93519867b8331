"""Normalizations, as they are at inference."""

from __future__ import annotations

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node


def _along(b: Builder, vector: str, rank: int, axis: int) -> str:
    """Give a vector the rank at which it broadcasts along an axis."""
    return b.op("Reshape", vector, b.integers(*(-1 if position == axis else 1 for position in range(rank))))


def _batch_norm(b: Builder, node: Node, inputs: list[str]) -> str:
    x, gamma, beta, mean, variance = inputs
    dtype, axis, epsilon = b.dtype(x), b.axis(x, node.get("axis", 1)), float(node.get("eps", 1e-3))
    if node.get("fix_gamma", True):  # MXNet computes with ones, whatever the file holds
        gamma = b.op("Add", b.op("Mul", gamma, b.like(0, gamma)), b.like(1, gamma))
    x = b.cast(x, b.dtype(gamma))
    if axis == 1:
        return b.cast(b.op("BatchNormalization", x, gamma, beta, mean, variance, epsilon=epsilon), dtype)
    scale = b.op("Div", gamma, b.op("Sqrt", b.op("Add", variance, b.like(epsilon, variance))))
    shift = b.op("Sub", beta, b.op("Mul", mean, scale))
    scale, shift = (_along(b, vector, b.rank(x), axis) for vector in (scale, shift))
    return b.cast(b.op("Add", b.op("Mul", x, scale), shift), dtype)


def _layer_norm(b: Builder, node: Node, inputs: list[str]) -> str:
    x, gamma, beta = inputs
    axis, rank, epsilon = b.axis(x, node.get("axis", -1)), b.rank(x), float(node.get("eps", 1e-5))
    if axis == rank - 1:
        return b.op("LayerNormalization", x, gamma, beta, axis=axis, epsilon=epsilon)
    centered = b.op("Sub", x, b.op("ReduceMean", x, axes=[axis]))
    variance = b.op("ReduceMean", b.op("Mul", centered, centered), axes=[axis])
    normal = b.op("Div", centered, b.op("Sqrt", b.op("Add", variance, b.like(epsilon, x))))
    gamma, beta = (_along(b, vector, rank, axis) for vector in (gamma, beta))
    return b.op("Add", b.op("Mul", normal, gamma), beta)


def _instance_norm(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("InstanceNormalization", *inputs, epsilon=float(node.get("eps", 1e-3)))


def _group_norm(b: Builder, node: Node, inputs: list[str]) -> str:
    """Normalize groups of channels; gamma and beta are of each group in MXNet 1.x."""
    x, gamma, beta = inputs
    groups = node.get("num_groups", 1)
    if b.shape(gamma) != (groups,):
        raise node.unsupported("with a gamma of each channel has no translation to ONNX here")
    grouped = b.op("Reshape", x, b.integers(0, groups, -1))
    made = b.op("InstanceNormalization", grouped, gamma, beta, epsilon=float(node.get("eps", 1e-5)))
    return b.set_shape(b.op("Reshape", made, b.op("Shape", x)), b.shape(x))


def _l2_normalization(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    rank = b.rank(x)
    axes = {"instance": range(1, rank), "channel": [1], "spatial": range(2, rank)}[node.get("mode", "instance")]
    total = b.op("ReduceSum", b.op("Mul", x, x), b.integers(*axes), keepdims=1)
    return b.op("Div", x, b.op("Sqrt", b.op("Add", total, b.like(node.get("eps", 1e-10), x))))


def _local_response(b: Builder, node: Node, inputs: list[str]) -> str:
    alpha, beta, bias = (float(node.get(*pair)) for pair in (("alpha", 1e-4), ("beta", 0.75), ("knorm", 2.0)))
    return b.cast(b.op("LRN", inputs[0], size=node.get("nsize"), alpha=alpha, beta=beta, bias=bias), np.float32)


OPERATORS: dict[str, Translate] = {
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm", "_contrib_SyncBatchNorm"), _batch_norm),
    "LayerNorm": _layer_norm,
    "InstanceNorm": _instance_norm,
    "GroupNorm": _group_norm,
    "L2Normalization": _l2_normalization,
    "LRN": _local_response,
}
