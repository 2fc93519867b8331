"""Modules that compute in half precision, with inputs and outputs as they were."""

from __future__ import annotations

import copy

import torch

from registry_export.format import ConversionRequest
from registry_export_plugins._torch.modules import with_argument_names

_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Rounded(torch.nn.Module):
    """A module in another floating-point type whose inputs and outputs stay single."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        # A captured graph holds fake tensors, which refuse to be copied; it was loaded for this conversion alone.
        self.body = (module if captured(module) else copy.deepcopy(module)).to(dtype)
        self._dtype = dtype
        self.training = False  # a captured graph refuses .eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on one tensor per input and return one tensor per output."""
        given = [t.to(self._dtype) if t.dtype == torch.float32 else t for t in tensors]
        return tuple(t.float() if t.dtype == self._dtype else t for t in self.body(*given))


def captured(module: torch.nn.Module) -> bool:
    """Say whether a module is, or holds, a graph that `torch.export` captured."""
    return any(isinstance(part, torch.fx.GraphModule) for part in module.modules())


def rounded(module: torch.nn.Module, request: ConversionRequest) -> torch.nn.Module:
    """Return a module that computes in the precision that is asked for; the module itself where that is no half one."""
    dtype = _TYPES.get(str(request.options.get("precision")))
    if dtype is None:
        return module
    named: type[Rounded] = with_argument_names(Rounded, [spec.name for spec in request.interface.inputs])
    return named(module, dtype)
