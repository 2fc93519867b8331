"""The nets that faults are planted in, by name; what they are is known only where their frameworks are: in children."""

from __future__ import annotations

from dataclasses import dataclass

from registry_export.format import Toolchain
from registry_export_plugins._toolchains import ONNX
from tests.support.sources import TENSORFLOW, TORCH


@dataclass(frozen=True)
class Side:
    """One framework's nets.

    Attributes:
        format: The format of the checkpoints that are written.
        toolchain: What builds them and measures the faults' effects.
        module: Has `build` and `effects`, both run in a child.
    """

    format: str
    toolchain: Toolchain
    module: str


_TORCH = Side("pytorch", TORCH, "tests.faults.torch_side")
_KERAS = Side("keras", TENSORFLOW, "tests.faults.keras_side")
_ONNX = Side("onnx", ONNX, "tests.faults.onnx_side")

NETS: dict[str, Side] = {
    **dict.fromkeys(("convolution", "mobile", "residual", "decoder", "pooling", "audio"), _TORCH),
    **dict.fromkeys(("lstm", "gru", "transformer", "tokens"), _TORCH),
    **dict.fromkeys(("elementwise", "outputs", "inputs", "branches", "norms", "wide"), _TORCH),
    **dict.fromkeys(("keras_vision", "keras_sequence", "keras_attention"), _KERAS),
    **dict.fromkeys(("onnx_vision", "onnx_rows"), _ONNX),
}
