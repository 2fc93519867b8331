"""Weights that a module computes anew at every use: `torch.nn.utils.parametrizations`."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.nn.utils import parametrize


def settle(module: nn.Module) -> None:
    """Put computed weights in place of what computes them: no exporter knows a matrix exponential.

    A parameter that is used elsewhere too is left alone, for its other user would be given the computed one.
    """
    uses = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    for part in list(module.modules()):
        if not parametrize.is_parametrized(part):
            continue
        for name, computed in list(part.parametrizations.items()):
            if all(uses[id(parameter)] == 1 for parameter in computed.parameters()):
                computed.eval()  # in training a spectral norm goes one step further each time
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
