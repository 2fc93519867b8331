"""What is done to an ONNX graph before its operators are translated, and how it is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import OPERATORS

_LARGEST_PROTOBUF = 2**31 - 1


def prepare(model: Any) -> Any:
    """Inline local functions, drop what nothing uses, fuse GELU, and infer shapes anew.

    Shapes that an exporter wrote are not trusted: they are inferred from the graph itself.
    """
    import onnx
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model = copy
    fuse_gelu(model.graph)
    remove_unused(model.graph)
    del model.graph.value_info[:]
    if model.ByteSize() < _LARGEST_PROTOBUF:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        # Missing shapes cost a little speed; TensorFlow infers most of them itself.
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return model
        return inferred
    return model


def missing(graph: Any, opsets: Mapping[str, int]) -> dict[str, list[str]]:
    """List operators that can neither be translated nor expanded, with the nodes that use them."""
    unknown: dict[str, list[str]] = {}
    for node in all_nodes(graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in OPERATORS and not _expandable(node, domain, opsets):
            label = node.op_type if not domain else f"{domain}.{node.op_type}"
            unknown.setdefault(label, []).append(node.name or "/".join(node.output))
    return unknown


def all_nodes(graph: Any) -> Iterator[Any]:
    """Walk the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from all_nodes(inner)


def attributes_of(proto: Any) -> dict[str, Any]:
    """Read a node's attributes as Python values; strings are decoded, tensors and graphs stay as they are."""
    from onnx import helper

    values: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.ref_attr_name:
            continue
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [item.decode() for item in value]
        values[attribute.name] = value
    return values


def _schema(node: Any, domain: str, opsets: Mapping[str, int]) -> Any:
    import onnx

    opset = opsets.get(domain, 1)
    return onnx.defs.get_schema(node.op_type, opset, domain) if onnx.defs.has(node.op_type, opset, domain) else None


def _expandable(node: Any, domain: str, opsets: Mapping[str, int]) -> bool:
    schema = _schema(node, domain, opsets)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def expansion(node: Any, opsets: Mapping[str, int], types: Sequence[Any]) -> Any:
    """Return the function by which ONNX defines an operator, its attributes filled in; None if it has none."""
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    schema = _schema(node, domain, opsets)
    if schema is None:
        return None
    if schema.has_context_dependent_function:
        content = schema.get_context_dependent_function_with_opset_version(
            opsets.get(domain, 1), node.SerializeToString(), [item.SerializeToString() for item in types]
        )
    elif schema.has_function:
        content = schema.function_body.SerializeToString()
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(content)
    _fill_attributes(function.node, node, schema)
    return function


def _fill_attributes(nodes: Any, caller: Any, schema: Any) -> None:
    """Replace references to the caller's attributes by their values or defaults."""
    given = {attribute.name: attribute for attribute in caller.attribute}
    for node in nodes:
        for attribute in list(node.attribute):
            if attribute.g.node:
                _fill_attributes(attribute.g.node, caller, schema)
            if not attribute.ref_attr_name:
                continue
            value = given.get(attribute.ref_attr_name)
            if value is None and attribute.ref_attr_name in schema.attributes:
                value = schema.attributes[attribute.ref_attr_name].default_value
            name = attribute.name
            node.attribute.remove(attribute)
            if value is not None and value.type:
                filled = node.attribute.add()
                filled.CopyFrom(value)
                filled.name = name


def remove_unused(graph: Any) -> None:
    """Drop the nodes and initializers of the main graph that no output depends on."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
            for inner in _subgraphs(node):
                for below in all_nodes(inner):
                    needed |= set(below.input)
                needed |= {value.name for value in inner.output}
    kept.reverse()
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)


def _subgraphs(node: Any) -> list[Any]:
    return [inner for attribute in node.attribute for inner in [attribute.g, *attribute.graphs] if inner.node]


def fuse_gelu(graph: Any) -> None:
    """Replace `x * (1 + erf(x / sqrt 2)) / 2`, in the orders that exporters write it, by one `Gelu`.

    TensorFlow Lite has a kernel for GELU and none for `Erf`.
    """
    makers = {name: node for node in graph.node for name in node.output}
    values = _scalars(graph)
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        if node.op_type != "Erf":
            continue
        source = _scaled(makers.get(node.input[0]), values, 2**-0.5)
        end = _gelu_end(node, source, makers, values, users, outputs) if source else None
        if end is not None:
            end.op_type, end.domain = "Gelu", ""
            del end.input[:], end.attribute[:]
            end.input.append(source)


def _gelu_end(erf: Any, source: str, makers: Any, values: Mapping[str, float], users: Any, outputs: set[str]) -> Any:
    """Find the last node of the pattern that starts with `erf(source / sqrt 2)`."""
    node, seen_half, seen_source = erf, False, False
    for _ in range(4):
        following = users.get(node.output[0], [])
        if len(following) != 1 or node.output[0] in outputs:
            return None
        above, node = node, following[0]
        other = next((name for name in node.input if name != above.output[0]), "")
        if above is erf:
            if node.op_type != "Add" or not _close(values.get(other), 1.0):
                return None
            continue
        if node.op_type not in ("Mul", "Div"):
            return None
        if other == source and node.op_type == "Mul":
            seen_source = True
        elif _close(values.get(other), 0.5 if node.op_type == "Mul" else 2.0):
            seen_half = True
        elif _scaled(makers.get(other), values, 0.5) == source and node.op_type == "Mul":
            seen_source = seen_half = True
        else:
            return None
        if seen_half and seen_source:
            return node
    return None


def _scaled(node: Any, values: Mapping[str, float], factor: float) -> str:
    """Return what a node multiplies by a factor, or an empty string if it does something else."""
    if node is None or node.op_type not in ("Mul", "Div") or len(node.input) != 2:
        return ""
    first, second = node.input
    if node.op_type == "Div":
        return first if second in values and _close(values[second], 1 / factor) else ""
    if second in values:
        return first if _close(values[second], factor) else ""
    return second if first in values and _close(values[first], factor) else ""


def _close(value: float | None, wanted: float) -> bool:
    return value is not None and abs(value - wanted) <= 1e-3 * wanted


def _scalars(graph: Any) -> dict[str, float]:
    """Read every constant of one element."""
    from onnx import numpy_helper

    values: dict[str, float] = {}
    tensors = [(tensor.name, tensor) for tensor in graph.initializer if int(np.prod(tensor.dims)) == 1]
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and int(np.prod(attribute.t.dims)) == 1:
                    tensors.append((node.output[0], attribute.t))
                elif attribute.name == "value_float":
                    values[node.output[0]] = attribute.f
    for name, tensor in tensors:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            values[name] = float(array.reshape(()))
    return values
