"""Frozen graphs: one `GraphDef` file with the weights inside it as constants.

The file has no signature. Placeholders are its inputs, and tensors that nothing consumes its outputs; what is
written here has both in the interface's order, under its names.

Source: https://www.tensorflow.org/api_docs/python/tf/Graph#as_graph_def
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Interface
from registry_export.errors import ConversionError, SourceError, UnsupportedModelError
from registry_export_plugins._tensorflow.functions import (
    TensorFlowFunction,
    declared_for,
    narrowed,
    retrace,
    to_spec,
    trace,
)
from registry_export_plugins._tensorflow.names import identifiers, unique_names

_NO_OUTPUT = frozenset({"NoOp", "Const", "Placeholder", "PlaceholderWithDefault", "Assert", "Print", "PrintV2"})
_VARIABLES = frozenset({"VariableV2", "Variable", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable"})


def freeze(function: TensorFlowFunction, path: Path) -> None:
    """Write a function as a frozen graph.

    Args:
        function: With its variables; they become constants.
        path: The `.pb` file to write.

    Raises:
        UnsupportedModelError: It holds tables, which have no constant form.
        ConversionError: TensorFlow refused, or the graph is larger than a protobuf can be.
    """
    import tensorflow as tf
    from google.protobuf.message import EncodeError
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    own = retrace(function, function.interface.inputs)
    try:
        frozen = convert_variables_to_constants_v2(own.function, lower_control_flow=False)
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise ConversionError(f"TensorFlow could not freeze the function: {str(error)[:300]}") from error
    if any(tensor.dtype == tf.resource for tensor in frozen.inputs):
        raise UnsupportedModelError(
            "A frozen graph cannot hold this model's lookup tables.", remedy="Export a saved_model instead."
        )
    # Nested structures come out of a function sorted by their keys.
    results = dict(zip(sorted(own.keys), frozen.outputs, strict=True))
    graph = _ordered(frozen.graph.as_graph_def(), own, [results[key] for key in own.keys])
    try:
        path.write_bytes(graph.SerializeToString())
    except (ValueError, EncodeError) as error:
        raise ConversionError(
            "The frozen graph would be larger than the 2 GB that one GraphDef can hold.",
            remedy="Export a saved_model, which keeps the weights beside the graph.",
        ) from error


def _ordered(graph: Any, function: TensorFlowFunction, results: Sequence[Any]) -> Any:
    """Put the inputs first, in order, and end with one identity per output that bears its name."""
    position = {name: i for i, name in enumerate(function.arguments)}
    nodes = sorted(graph.node, key=lambda node: position.get(node.name, len(position)))
    taken = [node.name for node in nodes]
    names = unique_names([*taken, *identifiers(spec.name for spec in function.interface.outputs)])[len(taken) :]
    made = type(graph)()
    made.CopyFrom(graph)
    del made.node[:]
    made.node.extend(nodes)
    for name, tensor in zip(names, results, strict=True):
        node = made.node.add(name=name, op="Identity", input=[tensor.name.removesuffix(":0")])
        node.attr["T"].type = tensor.dtype.as_datatype_enum
    return made


def read(path: Path) -> Any:
    """Parse a `GraphDef`, binary or text (`.pbtxt`).

    Raises:
        SourceError: It is none, or still has variables.
    """
    import tensorflow as tf
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    graph = tf.compat.v1.GraphDef()
    try:
        if path.suffix == ".pbtxt":
            text_format.Parse(path.read_text(), graph)
        else:
            graph.ParseFromString(path.read_bytes())
    except (DecodeError, text_format.ParseError, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path.name} is no TensorFlow graph: {str(error).rstrip('.')}.", remedy="Log the file again."
        ) from error
    if not graph.node:
        raise SourceError(f"{path.name} holds no TensorFlow graph.")
    variables = [node.name for node in graph.node if node.op in _VARIABLES]
    if variables:
        raise SourceError(
            f"The graph {path.name} is not frozen: {', '.join(variables[:3])} have no values in it.",
            remedy="Freeze it with its checkpoint, or log the SavedModel.",
        )
    return graph


def load(path: Path, interface: Interface) -> TensorFlowFunction:
    """Load a frozen graph as a function.

    Args:
        path: The `.pb` or `.pbtxt` file.
        interface: Names and sizes that are known already, in the file's order; may be empty.

    Raises:
        SourceError: It cannot be read, or has no inputs or no outputs.
    """
    import tensorflow as tf

    graph = read(path)
    inputs = [node.name for node in graph.node if node.op == "Placeholder"]
    sinks = _sinks(graph)
    if not inputs or not sinks:
        raise SourceError(f"The graph {path.name} has no {'outputs' if inputs else 'placeholders'}.")
    try:
        wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        feeds = [wrapped.graph.get_tensor_by_name(f"{name}:0") for name in inputs]
        fetches = [tensor for name in sinks for tensor in wrapped.graph.get_operation_by_name(name).outputs]
        pruned = wrapped.prune(feeds, fetches)
    except (ValueError, KeyError, tf.errors.OpError) as error:
        raise SourceError(f"TensorFlow cannot import the graph {path.name}: {str(error)[:300]}") from error
    known = [spec.name for spec in interface.inputs]
    names = known if len(known) == len(inputs) and all(known) else inputs
    if set(known) == set(inputs):
        names = inputs
    specs = [
        narrowed(to_spec(name, feed), declared_for(name, i, len(names), interface))
        for i, (name, feed) in enumerate(zip(names, feeds, strict=True))
    ]
    order = {name: i for i, name in enumerate(known)}
    ranked = sorted(range(len(specs)), key=lambda i: order.get(specs[i].name, i))

    def call(*tensors: Any) -> list[Any]:
        given = dict(zip(ranked, tensors, strict=True))
        return list(pruned(*(given[i] for i in range(len(specs)))))

    function = trace(call, [specs[i] for i in ranked], _output_names(fetches, interface), wrapped)
    if interface.outputs:
        return function  # ours: its interface is known
    return replace(function, notes=(_note(inputs, fetches),))


def _output_names(fetches: Sequence[Any], interface: Interface) -> list[str]:
    own = [tensor.name.removesuffix(":0").replace(":", "_") for tensor in fetches]
    names = [spec.name for spec in interface.outputs]
    return names if len(names) == len(own) and set(names) != set(own) else own


def _sinks(graph: Any) -> list[str]:
    """Names of the nodes whose results nothing consumes, in the file's order."""
    consumed = {source.lstrip("^").split(":")[0] for node in graph.node for source in node.input}
    return [
        node.name
        for node in graph.node
        if node.name not in consumed and node.op not in _NO_OUTPUT and not node.op.endswith("Summary")
    ]


def _note(inputs: Sequence[str], fetches: Sequence[Any]) -> str:
    return (
        f"The graph has no signature: its placeholders ({', '.join(inputs)}) are taken as inputs, and what nothing "
        f"consumes ({', '.join(tensor.name for tensor in fetches)}) as outputs."
    )
