"""What was found out by hand: why faults were missed, and which sound nets a converter really makes wrong."""

from __future__ import annotations

from tests.faults.plant import Planted

_MISSED: dict[tuple[str, str, str], str] = {}
"""(net, fault, format) -> why."""

WRONG: dict[tuple[str, str], str] = {
    ("residual", "coreml"): "coremltools refuses alpha of an addition in a trace, and drops it from a program",
    ("lstm", "ncnn"): "ncnn begins the backward half of a bidirectional LSTM with another state than it is given",
    ("elementwise", "ncnn"): "pnnx takes a remainder for C's, which has the sign of the dividend",
    ("onnx_vision", "ncnn"): "ncnn gives what is flattened in a shape of 16 by 8",
    ("wide", "mnn"): "MNN gives an inner product that is an output two axes too many",
}
"""(net, format) -> what the converter gets wrong about the sound net: no false alarm."""


def cause_of(one: Planted) -> str:
    """Say why a fault was missed; empty where nobody has found out yet."""
    return _MISSED.get((one.net, one.fault, one.format), "")
