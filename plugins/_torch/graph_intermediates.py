"""What a `torch.export` program computes: its graph, run node by node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from registry_export.format import Intermediate
from registry_export_plugins._torch.modules import to_array

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def watched_graph(module: Any, leaves: Sequence[Any]) -> Iterator[Intermediate]:
    """Run a program's module on its flat inputs, and yield the results that depend on them."""
    interpreter = torch.fx.Interpreter(module)
    given = iter(leaves)
    live: dict[str, tuple[str, ...]] = {}
    last = _last_readers(module.graph)
    for node in module.graph.nodes:
        if node.op == "output":
            return
        with torch.no_grad():
            result = next(given) if node.op == "placeholder" else interpreter.run_node(node)
        interpreter.env[node] = result
        if node.op == "placeholder":
            live[node.name] = ()
        sources = [source.name for source in node.all_input_nodes if source.name in live]
        if sources:
            yield from _shown(node, sources, result, live)
        for source in last.get(node, ()):
            del interpreter.env[source]


def _last_readers(graph: Any) -> dict[Any, list[Any]]:
    """Map each node to those that nothing reads after it."""
    last: dict[Any, Any] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[source] = node
    found: dict[Any, list[Any]] = {}
    for source, node in last.items():
        found.setdefault(node, []).append(source)
    return found


def _shown(node: Any, sources: Sequence[str], result: Any, live: dict[str, tuple[str, ...]]) -> Iterator[Intermediate]:
    after = tuple(dict.fromkeys(name for source in sources for name in live[source]))
    leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    names = [node.name if len(leaves) == 1 else f"{node.name}.{i}" for i in range(len(leaves))]
    live[node.name] = tuple(names) or after
    for name, leaf in zip(names, leaves, strict=True):
        value = to_array(leaf) if leaf.dtype in _FLOATS and leaf.numel() else None
        yield Intermediate(name, value, _module(node), _operator(node), after)


def _module(node: Any) -> str:
    """Return the path of the innermost module that the node was traced in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _operator(node: Any) -> str:
    return str(node.target).removeprefix("aten.").rpartition(".")[0] or str(node.target)
