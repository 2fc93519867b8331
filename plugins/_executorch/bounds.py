"""Upper bounds of dynamic dimensions, which ExecuTorch plans its memory for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.value_ranges import ValueRanges

from registry_export.format import ConversionRequest

_LIKE_UNBOUNDED = 2**31
"""An upper bound beyond this is none: no tensor of ours is that long."""


def bound(program: torch.export.ExportedProgram, request: ConversionRequest) -> None:
    """Give every dynamic dimension that has no upper bound one: `max_batch` on axis 0, `max_size` elsewhere.

    A dimension may become four times as large as it is in the samples in any case. A bound that the model
    has itself stays.
    """
    for node in program.graph.nodes:
        if node.op != "placeholder" or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt):
                _bound(size, _most(request, "max_batch" if axis == 0 else "max_size"))


def _most(request: ConversionRequest, option: str) -> int:
    value = request.options.get(option)
    return int(value) if isinstance(value, (int, float, str)) else 1


def _bound(size: torch.SymInt, most: int) -> None:
    ranges = size.node.shape_env.var_to_range
    hint = int(size.node.hint or 1)
    for symbol in size.node.expr.free_symbols:
        known = ranges[symbol]
        if known.upper > _LIKE_UNBOUNDED:
            ranges[symbol] = ValueRanges(known.lower, max(most, 4 * hint))


Ranges = dict[int, tuple[ShapeEnv, dict[Any, Any]]]


def ranges_of(program: torch.export.ExportedProgram) -> Ranges:
    """Remember the bounds of a program's dimensions."""
    return {id(env): (env, dict(env.var_to_range)) for env in _environments(program)}


def restore(ranges: Ranges) -> None:
    """Put back bounds that lowering has narrowed.

    PyTorch chooses a convolution's kernel by the batch, so that retracing an example of two rows notes
    "fewer than 16 rows" as if the model had said so. Nothing of ExecuTorch's depends on that choice.
    """
    for env, before in ranges.values():
        env.var_to_range.update(before)


def planned_for(ranges: Ranges) -> Any:
    """Return the pass that turns dynamic dimensions into the sizes memory is planned for, with these bounds."""
    from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

    class PlannedFor(ConstraintBasedSymShapeEvalPass):
        def call(self, graph_module: torch.fx.GraphModule) -> Any:
            restore(ranges)
            return super().call(graph_module)

    return PlannedFor()


def _environments(program: torch.export.ExportedProgram) -> Iterator[ShapeEnv]:
    for node in program.graph.nodes:
        value: Any = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                yield size.node.shape_env
