"""Quantisation by PT2E: observers are put into a captured graph, calibrated, and turned into int8.

Source: https://docs.pytorch.org/ao/stable/pt2e_quantization/index.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from registry_export.errors import ConversionError
from registry_export.format import ConversionRequest
from registry_export_plugins._torch.calls import first_line, without_deprecations
from registry_export_plugins._torch.modules import to_tensor, with_argument_names

_MOST_CALLS = 64
"""Calls that calibrate: ranges hardly move after dozens."""


class Graph(torch.nn.Module):
    """A captured graph as a module that can be captured again."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body
        self.training = False  # a captured graph refuses .eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Run on one tensor per input and return one tensor per output."""
        return self.body(*tensors)


def quantized(program: torch.export.ExportedProgram, request: ConversionRequest, *, dynamic: bool) -> torch.nn.Module:
    """Return a module with int8 weights per channel, and int8 activations per tensor.

    Args:
        program: Takes one tensor per input of the request's interface and returns a tuple of tensors.
        request: Its calibration samples give the activations' ranges, unless `dynamic`.
        dynamic: Measure the activations' ranges at run time, where XNNPACK can: linear layers.

    Raises:
        ConversionError: The quantiser refused the graph.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    try:
        with torch.no_grad(), without_deprecations():
            graph = _integers_kept(program.module(check_guards=False))
            observed = prepare_pt2e(graph, XNNPACKQuantizer().set_global(config))
            for tensors in _calls(request, dynamic=dynamic):
                observed(*tensors)
            body = convert_pt2e(observed)
    except Exception as error:  # the quantiser raises errors of many classes, none of them its own
        raise ConversionError(f"The quantiser refused the model: {first_line(error)}") from error
    named: type[Graph] = with_argument_names(Graph, [spec.name for spec in request.interface.inputs])
    return named(body)


def _integers_kept(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Call integer sums and products with a number by their other name.

    The quantiser turns the number of `add.Tensor` into a float tensor, and with it the indices and masks
    that integers are computed for.
    """
    aten = torch.ops.aten
    names = {aten.add.Tensor: aten.add.Scalar, aten.mul.Tensor: aten.mul.Scalar}
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        integer = isinstance(value, torch.Tensor) and not value.is_floating_point()
        if integer and node.target in names and len(node.args) > 1 and isinstance(node.args[1], (int, float)):
            node.target = names[node.target]
    graph.recompile()
    return graph


def _calls(request: ConversionRequest, *, dynamic: bool) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield calibration inputs in batches of the traced size, which fits a fixed batch too."""
    names = [spec.name for spec in request.interface.inputs]
    if dynamic or not request.calibration:
        yield tuple(to_tensor(request.samples[name]) for name in names)
        return
    arrays = [request.calibration[name] for name in names]
    rows = [array.shape[0] if array.ndim else 0 for array in arrays]
    if len(set(rows)) != 1 or rows[0] == 0:  # inputs without a common batch: one call
        yield tuple(to_tensor(np.asarray(array)) for array in arrays)
        return
    size = min(max(1, request.samples[names[0]].shape[0]), rows[0])
    for start in list(range(0, rows[0] - size + 1, size))[:_MOST_CALLS]:
        yield tuple(to_tensor(np.asarray(array[start : start + size])) for array in arrays)
