"""Operators that MNN lacks or mistakes, written in operators that it has.

Some reductions get their axes as attributes, because MNN reads no others. `IsNaN(x)` becomes `x != x`, Mish its
definition. `If` becomes both branches and a choice between their results, which is the same while branches
only compute: MNN gives some branches' results an axis too many.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from onnx import helper, numpy_helper

from registry_export_plugins._onnx.opsets import graphs_of


def with_exact_gelu(model: Any) -> None:
    """Write GELU with the error function, in place: MNN's own kernel is off by about 1e-5.

    Source: https://onnx.ai/onnx/operators/onnx__Gelu.html
    """
    for graph in graphs_of(model):
        nodes = []
        for node in graph.node:
            tanh = any(attribute.name == "approximate" and attribute.s == b"tanh" for attribute in node.attribute)
            nodes += [node] if node.op_type != "Gelu" or node.domain or tanh else _gelu(node)
        del graph.node[:]
        graph.node.extend(nodes)


def _gelu(node: Any) -> list[Any]:
    """GELU is x (1 + erf(x / sqrt 2)) / 2."""
    x, y = node.input[0], node.output[0]
    root, half, one, scaled, erf, above, both = (
        f"{y}__{part}" for part in ("root", "half", "one", "scaled", "erf", "above", "both")
    )
    steps = [
        ("Constant", [], root, {"value_float": math.sqrt(0.5)}),
        ("Constant", [], half, {"value_float": 0.5}),
        ("Constant", [], one, {"value_float": 1.0}),
        ("Mul", [x, root], scaled, {}),
        ("Erf", [scaled], erf, {}),
        ("Add", [erf, one], above, {}),
        ("Mul", [x, above], both, {}),
        ("Mul", [both, half], y, {}),
    ]
    return [helper.make_node(kind, inputs, [made], name=made, **values) for kind, inputs, made, values in steps]


_REDUCTIONS = frozenset({"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"})
_DATA_AND_AXES = 2


def with_plain_reductions(model: Any) -> None:
    """Write some reductions as MNN's converter reads them, in place: with axes and keepdims as attributes.

    Since opset 18 the axes are an input, which the converter does not see: it reduces over all of them, and
    drops the axes unless it is told to keep them. The result is for MNN alone; as ONNX it is not valid.
    """
    graphs = list(graphs_of(model))
    known = {weight.name: weight for graph in graphs for weight in graph.initializer}
    for node in (node for graph in graphs for node in graph.node if node.op_type == "Constant"):
        known |= {name: one.t for name in node.output for one in node.attribute if one.name == "value"}
    for node in (node for graph in graphs for node in graph.node if node.op_type in _REDUCTIONS):
        if "keepdims" not in {attribute.name for attribute in node.attribute}:
            node.attribute.append(helper.make_attribute("keepdims", 1))
        if len(node.input) == _DATA_AND_AXES and node.input[1] in known:
            axes = numpy_helper.to_array(known[node.input[1]]).reshape(-1).tolist()
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", axes))


def without_missing(model: Any) -> tuple[str, ...]:
    """Rewrite operators that MNN lacks, in place; return which, none where there was nothing to do."""
    done: dict[str, None] = {}
    for graph in graphs_of(model):
        nodes = []
        for node in graph.node:
            rewrite = _REWRITES.get(node.op_type) if not node.domain else None
            nodes += rewrite(node) if rewrite else [node]
            done.update({node.op_type: None} if rewrite else {})
        del graph.node[:]
        graph.node.extend(nodes)
    return tuple(done)


def _is_nan(node: Any) -> list[Any]:
    """A number that is not itself is none."""
    same = f"{node.output[0]}__same"
    return [
        helper.make_node("Equal", [node.input[0], node.input[0]], [same], name=f"{node.name}__equal"),
        helper.make_node("Not", [same], list(node.output), name=node.name),
    ]


def _mish(node: Any) -> list[Any]:
    """Mish is x tanh(softplus(x)): https://arxiv.org/abs/1908.08681."""
    soft, squashed = f"{node.output[0]}__softplus", f"{node.output[0]}__tanh"
    return [
        helper.make_node("Softplus", [node.input[0]], [soft], name=f"{node.name}__softplus"),
        helper.make_node("Tanh", [soft], [squashed], name=f"{node.name}__tanh"),
        helper.make_node("Mul", [node.input[0], squashed], list(node.output), name=node.name),
    ]


_REWRITES: Mapping[str, Callable[[Any], list[Any]]] = {"IsNaN": _is_nan, "Mish": _mish}


def without_branches(model: Any) -> bool:
    """Compute both branches of every `If` of the main graph, in place, and choose; say whether there was one."""
    graph = model.graph
    nodes = list(_flattened(graph, graph, itertools.count()))
    found = len(nodes) != len(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def _flattened(graph: Any, main: Any, numbers: Iterator[int]) -> Iterator[Any]:
    for node in list(graph.node):
        if node.op_type != "If" or node.domain:
            yield node
            continue
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        results = []
        for name in ("then_branch", "else_branch"):
            names = _own_names(branches[name], f"branch_{next(numbers)}__")
            main.initializer.extend(_weights(branches[name], names))
            for inner in _flattened(branches[name], main, numbers):
                yield _renamed(inner, names)
            results.append([names.get(value.name, value.name) for value in branches[name].output])
        for chosen, other, output in zip(*results, node.output, strict=True):
            yield helper.make_node("Where", [node.input[0], chosen, other], [output], name=f"{node.name}__{output}")


def _own_names(branch: Any, prefix: str) -> Mapping[str, str]:
    """Map the values that a branch makes to names that no other branch has."""
    own = [weight.name for weight in branch.initializer]
    own += [output for node in branch.node for output in node.output if output]
    return {name: prefix + name for name in own}


def _weights(branch: Any, names: Mapping[str, str]) -> Iterator[Any]:
    for weight in branch.initializer:
        copy = type(weight).FromString(weight.SerializeToString())
        copy.name = names[weight.name]
        yield copy


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """Copy a node under other names, those that its own subgraphs read included."""
    copy = type(node).FromString(node.SerializeToString())
    for values in (copy.input, copy.output):
        values[:] = [names.get(value, value) for value in values]
    for attribute in copy.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inner = {name: new for name, new in names.items() if name not in {value.name for value in graph.input}}
            renamed = [_renamed(part, inner) for part in graph.node]
            del graph.node[:]
            graph.node.extend(renamed)
            for value in graph.output:
                value.name = inner.get(value.name, value.name)
    return copy
