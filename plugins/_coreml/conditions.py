"""`torch.cond`, for which neither a trace nor coremltools has a word, as two branches and a selection.

Branches of `torch.cond` have no side effects and give tensors of the same shapes, so that computing both
and selecting gives the same.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree


@contextlib.contextmanager
def conditions_as_selections() -> Iterator[None]:
    """Let `torch.cond` compute both branches while a module is traced."""

    def select(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
        if not isinstance(pred, torch.Tensor):
            return (true_fn if pred else false_fn)(*operands)
        chosen, other = true_fn(*operands), false_fn(*operands)
        return pytree.tree_map(lambda a, b: torch.where(pred, a, b), chosen, other)

    original = torch.cond
    torch.cond = select
    try:
        yield
    finally:
        torch.cond = original


def select_branches(program: torch.export.ExportedProgram) -> None:
    """Rewrite every `torch.cond` at the top of a program's graph, in place."""
    module = program.graph_module
    found = [node for node in module.graph.nodes if node.target is torch.ops.higher_order.cond]
    for node in found:
        if isinstance(node.args[0], torch.fx.Node) and isinstance(node.args[0].meta.get("val"), torch.Tensor):
            _select(module, node)
    for node in reversed([node for node in module.graph.nodes if node.op == "get_attr" and not node.users]):
        module.graph.erase_node(node)
    module.recompile()


def _select(module: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    pred, true_branch, false_branch, operands = node.args
    with module.graph.inserting_before(node):
        chosen = _inlined(module, true_branch, operands)
        other = _inlined(module, false_branch, operands)
        selected = []
        for a, b in zip(chosen, other, strict=True):
            where = module.graph.call_function(torch.ops.aten.where.self, (pred, a, b))
            where.meta = dict(a.meta)
            selected.append(where)
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(selected[user.args[1]])
            module.graph.erase_node(user)
    module.graph.erase_node(node)


def _inlined(module: torch.fx.GraphModule, branch: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Copy a branch's nodes into the graph around it; return its outputs there."""
    graph = getattr(module, branch.target).graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    return tuple(module.graph.graph_copy(graph, dict(zip(placeholders, operands, strict=True))))
