"""Giving an ONNX graph the names, the order and the dimension names of an interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnx import ModelProto, ValueInfoProto, helper

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError


def give_names(model: ModelProto, interface: Interface) -> None:
    """Rename and reorder a graph's inputs and outputs, and name its dynamic dimensions.

    Names of inner values that would collide are changed, and those of outputs that are called as an input is:
    a graph has one value of a name. Who runs the file goes by position then. Outputs are left as they are
    while the interface does not know them.

    Raises:
        ConversionError: The graph has other inputs or outputs than the interface.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    pairs = list(_paired(inputs, interface.inputs, "inputs"))
    if interface.outputs:
        _separate_outputs(graph)
        pairs_out = list(_paired(list(graph.output), _apart(interface), "outputs"))
    else:
        pairs_out = []
    _rename_values(graph, {value.name: spec.name for value, spec in (*pairs, *pairs_out)})
    _reorder(graph.input, [spec.name for _, spec in pairs])
    if pairs_out:
        _reorder(graph.output, [spec.name for _, spec in pairs_out])
    _name_dimensions(graph, interface)


def _apart(interface: Interface) -> list[TensorSpec]:
    """Return the outputs under names that no input has."""
    taken = {spec.name for spec in interface.inputs}
    return [replace(spec, name=f"{spec.name}__output") if spec.name in taken else spec for spec in interface.outputs]


def _paired(
    values: Sequence[ValueInfoProto], specs: Sequence[TensorSpec], what: str
) -> list[tuple[ValueInfoProto, TensorSpec]]:
    """Pair values with specs: by name where the names are the same, else by position."""
    names = [value.name for value in values]
    if len(names) != len(specs):
        raise ConversionError(
            f"The ONNX graph has the {what} {', '.join(names) or 'none'}, "
            f"the model has {', '.join(spec.name for spec in specs)}."
        )
    by_name = {value.name: value for value in values}
    if set(by_name) == {spec.name for spec in specs}:
        return [(by_name[spec.name], spec) for spec in specs]
    return list(zip(values, specs, strict=True))


def _separate_outputs(graph: Any) -> None:
    """Give every output a value of its own: an output may be an input, or the same value twice."""
    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    seen: set[str] = set()
    for position, value in enumerate(graph.output):
        if value.name in taken or value.name in seen:
            own = f"{value.name}__output_{position}"
            graph.node.append(helper.make_node("Identity", [value.name], [own], name=f"{own}__identity"))
            value.name = own
        seen.add(value.name)


def _rename_values(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values everywhere, subgraphs included; whoever has a wanted name already makes way."""
    changed = {old: new for old, new in names.items() if old != new}
    existing = _names_in(graph)
    for new in set(changed.values()):
        if new in existing and new not in changed:
            changed[new] = f"{new}__inner"
    if changed:
        _rename_in(graph, changed)


def _names_in(graph: Any) -> set[str]:
    found = {item.name for item in (*graph.input, *graph.initializer)}
    for node in graph.node:
        found.update((*node.input, *node.output))
        for inner in _subgraphs(node):
            found |= _names_in(inner)
    return found


def _subgraphs(node: Any) -> list[Any]:
    found = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found


def _rename_in(graph: Any, names: Mapping[str, str]) -> None:
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.name = names.get(item.name, item.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for inner in _subgraphs(node):
            _rename_in(inner, names)


def _reorder(values: Any, names: Sequence[str]) -> None:
    """Put values in the order of names; others (weights listed as inputs) keep their order after them."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    position = {name: i for i, name in enumerate(names)}
    copies.sort(key=lambda value: position.get(value.name, len(names)))
    del values[:]
    values.extend(copies)


def _name_dimensions(graph: Any, interface: Interface) -> None:
    """Call dynamic dimensions what the interface calls them, wherever the same symbol occurs."""
    specs = {spec.name: spec for spec in (*interface.inputs, *interface.outputs)}
    named = [(value, specs[value.name]) for value in (*graph.input, *graph.output) if value.name in specs]
    renamed: dict[str, str] = {}
    for value, spec in named:
        dims = value.type.tensor_type.shape.dim
        for dim, wanted in zip(dims, spec.shape or (), strict=False):
            if isinstance(wanted, str) and not dim.HasField("dim_value"):
                if dim.dim_param:
                    renamed.setdefault(dim.dim_param, wanted)
                dim.dim_param = wanted
    for value in (*graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]
