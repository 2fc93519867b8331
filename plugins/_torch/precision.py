"""The option `precision` of PyTorch's own files, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

from registry_export.entities import OptionValue
from registry_export.format import precision_option

PRECISION = precision_option("fp32", "fp16", "bf16")
"""`fp32` is the checkpoint's own: nothing is rounded."""


def scripts_keep_types(options: Mapping[str, OptionValue]) -> str:
    """Refuse to round a TorchScript module: what it has compiled names the types that it computes in."""
    asked = options.get(PRECISION.name)
    told = f"compiled source keeps its types, so precision={asked} needs a module or a program, and method=trace"
    return "" if asked in (None, PRECISION.default) else told
