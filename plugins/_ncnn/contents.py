"""What an ncnn network holds: its layers, and their weights where all of their types are known here.

A `.bin` file is nothing but numbers, one weight after the other: how many, in which type, follows from each layer's
parameters. Read here are the layers below; where a network has another one with weights, or the file does not end with
the last of them, no weight is shown rather than a wrong one.

Sources: https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/operation-param-weight-table.md and
`src/modelbin.cpp` there, which says how a weight's storage is tagged.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Held, Inside
from registry_export_plugins._ncnn.layout import FP16_TAG, INT8_TAG, Layer, layers_of, weights_of

_FLOAT_TAG = 0
_BARE_FLOAT_TAG = 0x0002C056
_ALIGNED = 4
_LARGEST = 1 << 40


@dataclass(frozen=True)
class _Weight:
    """One weight of a layer: its name, its sizes, and whether a tag before it tells how it is stored."""

    name: str
    shape: tuple[int, ...]
    tagged: bool = False


Weights = Iterator[_Weight]


def inside(param: Path) -> Inside:
    """Read the layers of a network, and its weights where they can be told apart."""
    layers = layers_of(param)
    counts = Counter(layer.type for layer in layers)
    try:
        held = list(_read(layers, weights_of(param)))
    except (VerificationError, OSError) as error:
        return Inside(None, counts, unsaid=(f"Tensors: {error}",))
    return Inside(iter(held), counts)


def _read(layers: list[Layer], path: Path) -> Iterator[Held]:
    """Read weights, which stay mapped from the file.

    Raises:
        VerificationError: A layer is not known, or the file is longer or shorter than its layers say.
    """
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = 0
    for layer in layers:
        for weight in _weights_of(layer):
            held, at = _held(f"{layer.name}.{weight.name}", weight, data, at)
            yield held
    if at != size:
        raise VerificationError(
            f"{path.name} has {size} bytes, and the weights of the layers that are known here are {at}."
        )


def _weights_of(layer: Layer) -> Weights:
    known = _LAYERS.get(layer.type)
    return known(_Numbers(layer.parameters)) if known is not None else iter(())


def _held(name: str, weight: _Weight, data: mmap.mmap, at: int) -> tuple[Held, int]:
    count = math.prod(weight.shape)
    if not 0 <= count < _LARGEST:
        raise VerificationError(f"{name} cannot have {count} elements.")
    dtype = np.dtype("<f4")
    if weight.tagged:
        if at + 4 > len(data):
            raise VerificationError(f"the file ends before {name}.")
        (tag,) = struct.unpack_from("<I", data, at)
        known = {FP16_TAG: "<f2", INT8_TAG: "i1", _FLOAT_TAG: "<f4", _BARE_FLOAT_TAG: "<f4"}
        if tag not in known:
            raise VerificationError(f"{name} is stored in a form that is not read here ({tag:#x}).")
        dtype, at = np.dtype(known[tag]), at + 4
    end = at + count * dtype.itemsize
    if end > len(data):
        raise VerificationError(f"the file ends inside of {name}.")
    array = np.frombuffer(data, dtype, count, at).reshape(weight.shape)
    return Held(name, array), end + -end % _ALIGNED if weight.tagged else end


class _Numbers:
    """The parameters of a layer by number."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        self._parameters = parameters

    def __call__(self, number: int, default: int = 0) -> int:
        text = self._parameters.get(number)
        try:
            return default if text is None else int(float(text))
        except (ValueError, OverflowError) as error:
            raise VerificationError(f"parameter {number} of a layer is {text!r}, and no number.") from error


def _convolution(p: _Numbers) -> Weights:
    outputs = p(0)
    size = p(6)
    yield _Weight("weight", (outputs, size // outputs) if outputs and size % outputs == 0 else (size,), tagged=True)
    if p(5):
        yield _Weight("bias", (outputs,))
    if p(8):
        raise VerificationError("a convolution of int8 has scales that are not read here.")


def _inner_product(p: _Numbers) -> Weights:
    outputs, size = p(0), p(2)
    yield _Weight("weight", (outputs, size // outputs) if outputs and size % outputs == 0 else (size,), tagged=True)
    if p(1):
        yield _Weight("bias", (outputs,))
    if p(8):
        raise VerificationError("an inner product of int8 has scales that are not read here.")


def _batch_norm(p: _Numbers) -> Weights:
    return (_Weight(name, (p(0),)) for name in ("slope", "mean", "variance", "bias"))


def _norm(channels: int, affine: int) -> Callable[[_Numbers], Weights]:
    def weights(p: _Numbers) -> Weights:
        return (_Weight(name, (p(channels),)) for name in (("gamma", "beta") if p(affine, 1) else ()))

    return weights


def _rms_norm(p: _Numbers) -> Weights:
    return iter([_Weight("gamma", (p(0),))] if p(2, 1) else [])


def _slope(p: _Numbers) -> Weights:
    yield _Weight("slope", (p(0),))


def _scale(p: _Numbers) -> Weights:
    if p(0) != -233:  # then the scale is another blob
        yield _Weight("scale", (p(0),))
        if p(1):
            yield _Weight("bias", (p(0),))


def _bias(p: _Numbers) -> Weights:
    yield _Weight("bias", (p(0),))


def _memory(p: _Numbers) -> Weights:
    sizes = [size for size in (p(2), p(11), p(1), p(0)) if size]
    yield _Weight("data", tuple(sizes), tagged=p(21, 1) == 0)


def _embed(p: _Numbers) -> Weights:
    yield _Weight("weight", (p(1), p(0)), tagged=True)
    if p(2):
        yield _Weight("bias", (p(0),))
    if p(18):
        raise VerificationError("an embedding of int8 has scales that are not read here.")


def _recurrent(gates: int, biases: int) -> Callable[[_Numbers], Weights]:
    def weights(p: _Numbers) -> Weights:
        outputs, size = p(0), p(1)
        hidden = p(3, outputs) if gates == 4 else outputs
        directions = 2 if p(2) == 2 else 1
        if p(8):
            raise VerificationError("a recurrent layer of int8 has scales that are not read here.")
        rows = hidden * gates
        yield _Weight("weight_xc", (directions, rows, size // directions // rows if rows else 0), tagged=True)
        yield _Weight("bias_c", (directions, biases, hidden), tagged=True)
        yield _Weight("weight_hc", (directions, rows, outputs), tagged=True)
        if hidden != outputs:
            yield _Weight("weight_hr", (directions, outputs, hidden), tagged=True)

    return weights


def _attention(p: _Numbers) -> Weights:
    inner, size = p(0), p(2)
    query = size // inner if inner else 0
    if p(18):
        raise VerificationError("attention of int8 has scales that are not read here.")
    for name, width in (("q", query), ("k", p(3, inner)), ("v", p(4, inner))):
        yield _Weight(f"{name}_weight", (inner, width), tagged=True)
        yield _Weight(f"{name}_bias", (inner,))
    yield _Weight("out_weight", (query, inner), tagged=True)
    yield _Weight("out_bias", (query,))


def _gemm(p: _Numbers) -> Weights:
    m, n, k = p(7), p(8), p(9)
    if p(18):
        raise VerificationError("a Gemm of int8 has scales that are not read here.")
    if p(4):
        yield _Weight("a", (k, m) if p(2) else (m, k), tagged=True)
    if p(5):
        yield _Weight("b", (n, k) if p(3) else (k, n), tagged=True)
    kind = p(10)
    if p(6) and kind != -1:
        yield _Weight("c", {0: (1,), 1: (m,), 2: (m, 1), 3: (m, n), 4: (1, n)}.get(kind, (0,)), tagged=True)


_LAYERS: Mapping[str, Callable[[_Numbers], Weights]] = {
    **dict.fromkeys(
        (
            *("Convolution", "ConvolutionDepthWise", "Convolution1D", "ConvolutionDepthWise1D", "Convolution3D"),
            *("ConvolutionDepthWise3D", "Deconvolution", "DeconvolutionDepthWise", "Deconvolution1D"),
            *("DeconvolutionDepthWise1D", "Deconvolution3D", "DeconvolutionDepthWise3D"),
        ),
        _convolution,
    ),
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "LayerNorm": _norm(0, 2),
    "InstanceNorm": _norm(0, 2),
    "GroupNorm": _norm(1, 3),
    "RMSNorm": _rms_norm,
    "PReLU": _slope,
    "Scale": _scale,
    "Bias": _bias,
    "MemoryData": _memory,
    "Embed": _embed,
    "LSTM": _recurrent(4, 4),
    "GRU": _recurrent(3, 4),
    "RNN": _recurrent(1, 1),
    "MultiHeadAttention": _attention,
    "Gemm": _gemm,
}
