"""Convolutions, dense layers, pooling, resizing and softmax."""

from __future__ import annotations

import math

import numpy as np

from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node

_CHANNELS_FIRST = ("NCW", "NCHW", "NCDHW")


def _window(b: Builder, node: Node) -> dict[str, tuple[int, ...]]:
    """Read kernel, strides, dilations and pads of a window; refuse a layout with the channels last."""
    if node.get("layout") not in (None, *_CHANNELS_FIRST):
        raise node.unsupported(f"in the layout {node.get('layout')} has no translation to ONNX here")
    kernel = node.sizes("kernel", ())
    ones = (1,) * len(kernel)
    pad = node.sizes("pad", ()) or (0,) * len(kernel)
    return {
        "kernel_shape": kernel,
        "strides": node.sizes("stride", ()) or ones,
        "dilations": node.sizes("dilate", ()) or ones,
        "pads": (*pad, *pad),
    }


def _convolution(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Conv", *inputs[:3], group=node.get("num_group", 1), **_window(b, node))


def _deconvolution(b: Builder, node: Node, inputs: list[str]) -> str:
    window = _window(b, node)
    kernel, strides, dilations = (window[key] for key in ("kernel_shape", "strides", "dilations"))
    rank = len(kernel)
    adjust = node.sizes("adj", ()) or (0,) * rank
    target = node.sizes("target_shape", ())
    if target and any(target):
        sizes = b.shape(inputs[0])[2:]
        if not all(isinstance(size, int) for size in sizes):
            raise node.unsupported("with a target_shape needs fixed sizes of its input")
        too_much = [
            s * (int(size) - 1) + d * (k - 1) + 1 - t
            for s, size, d, k, t in zip(strides, map(_known, sizes), dilations, kernel, target, strict=True)
        ]
        pads = [(extra + 1) // 2 for extra in too_much]
        window["pads"], adjust = (*pads, *pads), tuple(extra % 2 for extra in too_much)
    group = node.get("num_group", 1)
    return b.op("ConvTranspose", *inputs[:3], group=group, output_padding=adjust, **window)


def _known(size: int | str | None) -> int:
    assert isinstance(size, int)
    return size


def _fully_connected(b: Builder, node: Node, inputs: list[str]) -> str:
    x, weight, *bias = inputs
    if node.get("flatten", True):
        x = b.op("Flatten", x, axis=1) if b.rank(x) != 2 else x
        return b.op("Gemm", x, weight, *bias, transB=1)
    made = b.op("MatMul", x, b.op("Transpose", weight, perm=[1, 0]))
    return b.op("Add", made, bias[0]) if bias else made


def _global_pooling(b: Builder, node: Node, x: str, kind: str) -> str:
    if kind == "sum":
        return b.op("ReduceSum", x, b.integers(*range(2, b.rank(x))), keepdims=1)
    kinds = {"max": "GlobalMaxPool", "avg": "GlobalAveragePool", "lp": "GlobalLpPool"}
    return b.op(kinds[kind], x, **({"p": node.get("p_value", 2)} if kind == "lp" else {}))


def _pooling(b: Builder, node: Node, inputs: list[str]) -> str:
    x, kind = inputs[0], node.get("pool_type", "max")
    convention = node.get("pooling_convention", "valid")
    if kind not in ("max", "avg", "sum", "lp") or convention not in ("valid", "full"):
        raise node.unsupported(f"of type {kind} and convention {convention} has no translation to ONNX here")
    if node.get("global_pool", False):
        return _global_pooling(b, node, x, kind)
    window = _window(b, node)
    del window["dilations"]
    is_full = convention == "full"
    if kind == "max":
        return b.op("MaxPool", x, ceil_mode=int(is_full), **window)
    if kind == "lp" and not is_full:
        return b.op("LpPool", x, p=node.get("p_value", 2), **window)
    if kind == "avg" and not node.get("count_include_pad", True):
        return b.op("AveragePool", x, ceil_mode=int(is_full), count_include_pad=0, **window)
    if kind == "lp" or (kind == "sum" and is_full):
        raise node.unsupported(f"of type {kind} and convention {convention} has no translation to ONNX here")
    # MXNet counts the padding of a window, but not what a last window has beyond it.
    pads = window.pop("pads")
    if any(pads):
        half = len(pads) // 2
        x = b.op("Pad", x, b.integers(0, 0, *pads[:half], 0, 0, *pads[half:]), b.like(0, x))
    mean = b.op("AveragePool", x, ceil_mode=int(is_full), count_include_pad=0, **window)
    return b.op("Mul", mean, b.like(math.prod(window["kernel_shape"]), x)) if kind == "sum" else mean


def _adaptive_pooling(b: Builder, node: Node, inputs: list[str]) -> str:
    """Average over bins of unequal size: a matrix from the left and one from the right."""
    x = inputs[0]
    wanted = list(node.sizes("output_size", (1,)) or (1,))
    tall, wide = wanted * 2 if len(wanted) == 1 else wanted
    if (tall, wide) == (1, 1):
        return b.op("GlobalAveragePool", x)
    height, width = b.shape(x)[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise node.unsupported("needs fixed sizes of its input")
    rows, columns = (_bins(size, count) for size, count in ((height, tall), (width, wide)))
    return b.op("MatMul", b.op("MatMul", b.like(rows, x), x), b.like(columns.T, x))


def _bins(size: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    matrix = np.zeros((count, size))
    for row in range(count):
        start, stop = row * size // count, -(-(row + 1) * size // count)
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


def _up_sampling(b: Builder, node: Node, inputs: list[str]) -> str:
    x, scale = inputs[0], node.get("scale", 1)
    if node.get("sample_type") == "nearest" and len(inputs) == 1:
        scales = b.constant([1, 1, scale, scale], np.float32)
        mode = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return b.op("Resize", x, "", scales, mode="nearest", **mode)
    if node.get("sample_type") == "bilinear":
        pad, size = math.ceil((scale - 1) / 2), 2 * scale - scale % 2
        window = {"kernel_shape": [size] * 2, "strides": [scale] * 2, "pads": [pad] * 4}
        return b.op("ConvTranspose", x, inputs[1], group=b.shape(inputs[1])[0], **window)
    raise node.unsupported("of several inputs has no translation to ONNX here")


def _bilinear_resize(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    if node.get("mode", "size") != "size" or node.get("scale_height") is not None:
        raise node.unsupported(f"of mode {node.get('mode')} has no translation to ONNX here")
    kept = b.op("Slice", b.op("Shape", x), b.integers(0), b.integers(2))
    height, width = node.get("height", 1), node.get("width", 1)
    sizes = b.op("Concat", kept, b.integers(height, width), axis=0)
    mode = "align_corners" if node.get("align_corners", True) else "half_pixel"
    made = b.op("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode=mode)
    return b.set_shape(made, (*b.shape(x)[:2], height, width))


def _softmax_over(b: Builder, x: str, axis: int) -> str:
    return b.op("Softmax", x, axis=b.axis(x, axis))


def _softmax(b: Builder, node: Node, inputs: list[str]) -> str:
    if node.get("use_length", False):
        raise node.unsupported("with lengths has no translation to ONNX here")
    x, temperature = inputs[0], node.get("temperature")
    if node.op == "softmin":
        x = b.op("Neg", x)
    if temperature:
        x = b.op("Div", x, b.like(temperature, x))
    kind = "LogSoftmax" if node.op == "log_softmax" else "Softmax"
    return b.op(kind, x, axis=b.axis(x, node.get("axis", -1)))


def _softmax_output(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    if node.get("multi_output", False):
        return _softmax_over(b, x, 1)
    if node.get("preserve_shape", False) or b.rank(x) == 2:
        return _softmax_over(b, x, -1)
    return _flat_softmax(b, x)


def _flat_softmax(b: Builder, x: str) -> str:
    """Softmax over all but the first axis."""
    made = b.op("Reshape", _softmax_over(b, b.op("Flatten", x, axis=1), 1), b.op("Shape", x))
    return b.set_shape(made, b.shape(x))


def _softmax_activation(b: Builder, node: Node, inputs: list[str]) -> str:
    if node.get("mode", "instance") == "channel":
        return _softmax_over(b, inputs[0], 1)
    return _flat_softmax(b, inputs[0])


OPERATORS: dict[str, Translate] = {
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "Deconvolution": _deconvolution,
    "FullyConnected": _fully_connected,
    "Pooling": _pooling,
    "Pooling_v1": _pooling,
    "_contrib_AdaptiveAvgPooling2D": _adaptive_pooling,
    "UpSampling": _up_sampling,
    "_contrib_BilinearResize2D": _bilinear_resize,
    "softmax": _softmax,
    "softmin": _softmax,
    "log_softmax": _softmax,
    "SoftmaxOutput": _softmax_output,
    "Softmax": _softmax_output,
    "SoftmaxActivation": _softmax_activation,
}
