"""Walks a graph and its subgraphs, node by node: what a translator is given, and what becomes of its answer.

What is known while translating is computed here and not in the graph; images stay in TensorFlow's order of axes
from one operator to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry_export.errors import ConversionError
from registry_export_plugins._onnx_to_tf.common import (
    OPERATORS,
    Image,
    Node,
    Operator,
    Sequenced,
    Weight,
    constant,
    embedded,
    folding,
    is_constant,
    plain,
)
from registry_export_plugins._onnx_to_tf.graph import attributes_of, expansion

LARGEST_CONSTANT = 4096
"""Initializers with more elements become variables; smaller ones are constants in the graph."""

Environment = dict[str, Any]


class Interpreter:
    """Runs translators over a graph and its subgraphs, in order.

    Args:
        graph: The main graph; its initializers are shared by every trace.
        opsets: Version of each domain; the default domain is the empty string.
    """

    def __init__(self, graph: Any, opsets: Mapping[str, int]) -> None:
        self.opsets = opsets
        self._weights = {tensor.name: _initial(tensor) for tensor in graph.initializer}

    def run(self, graph: Any, given: Mapping[str, Any], outer: Environment | None = None) -> list[Any]:
        """Translate a graph; return its outputs as tensors, in order.

        Args:
            graph: A `GraphProto`.
            given: Its inputs by name.
            outer: The values that a subgraph sees of the graphs around it.
        """
        values: Environment = dict(self._weights if outer is None else outer)
        if outer is not None:
            values.update({tensor.name: _initial(tensor) for tensor in graph.initializer})
        values.update(given)
        values[""] = None
        shapes = _known_shapes(graph)
        for proto in graph.node:
            self._step(proto, values, shapes)
        return [embedded(plain(values[value.name])) for value in graph.output]

    def _step(self, proto: Any, values: Environment, shapes: Mapping[str, list[int | None]]) -> None:
        inputs = [values[name] for name in proto.input]
        results = self.apply(proto, inputs, values)
        for name, result in zip(proto.output, results, strict=False):
            if name:
                values[name] = _refined(result, shapes.get(name))

    def apply(self, proto: Any, inputs: list[Any], values: Environment) -> list[Any]:
        """Translate one node; `values` is what its subgraphs see."""
        import tensorflow as tf

        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = Node(
            proto.op_type,
            proto.name or "/".join(proto.output),
            attributes_of(proto),
            self.opsets.get(domain, 1),
            tuple(proto.output),
        )
        found = OPERATORS.get((domain, proto.op_type))
        try:
            if found is None:
                return self._expanded(proto, node, inputs)
            result = self._call(found, node, inputs, values)
        except (ValueError, TypeError, NotImplementedError, IndexError, tf.errors.OpError) as error:
            raise ConversionError(
                f"TensorFlow refused the ONNX operator {node.op_type} ({node.name}): {str(error)[:500]}"
            ) from error
        return list(result) if isinstance(result, tuple | list) and not isinstance(result, Sequenced) else [result]

    def _call(self, found: Operator, node: Node, inputs: list[Any], values: Environment) -> Any:
        import tensorflow as tf

        if node.op_type in ("If", "Loop", "Scan", "SequenceMap"):
            return found.function(node, self, values, *[plain(value) for value in inputs])
        if found.images:
            if inputs and all(value is None or is_constant(value) for value in inputs):
                with tf.init_scope():
                    return plain(found.function(node, *inputs))
            return found.function(node, *map(embedded, inputs))
        if found.elementwise and any(isinstance(value, Image) for value in inputs):
            aligned = _aligned(inputs)
            if aligned is not None:
                return Image(found.function(node, *aligned))
        inputs = [plain(value) for value in inputs]
        if inputs and all(value is None or is_constant(value) for value in inputs):
            with tf.init_scope():
                return found.function(node, *inputs)
        return found.function(node, *map(embedded, inputs))

    def _expanded(self, proto: Any, node: Node, inputs: list[Any]) -> list[Any]:
        """Run the function by which ONNX defines an operator."""
        function = expansion(proto, self.opsets, [_type_of(plain(value)) for value in inputs])
        if function is None:
            raise node.refuse("no translation exists")
        values: Environment = {"": None}
        values.update(zip(function.input, [*inputs, *[None] * len(function.input)], strict=False))
        for inner in function.node:
            self._step(inner, values, {})
        # An output that the node does not use may be left uncomputed by the definition.
        return [values.get(name) for name in function.output]


def _initial(tensor: Any) -> Any:
    """Make a constant of a small initializer, a variable of a large one."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    return constant(array) if array.size <= LARGEST_CONSTANT else Weight(tensor.name, array)


def _known_shapes(graph: Any) -> dict[str, list[int | None]]:
    """Read what shape inference found of the tensors inside a graph."""
    shapes: dict[str, list[int | None]] = {}
    for value in graph.value_info:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and tensor.HasField("shape"):
            shapes[value.name] = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    return shapes


def _refined(value: Any, shape: list[int | None] | None) -> Any:
    """Tell TensorFlow the sizes that ONNX's shape inference knows and its own does not."""
    import tensorflow as tf

    if shape is None or not tf.is_tensor(value) or not tf.is_symbolic_tensor(value):
        return value
    if value.shape.is_compatible_with(shape) and not value.shape.is_fully_defined():
        value.set_shape(shape)
    return value


def _aligned(inputs: Sequence[Any]) -> list[Any] | None:
    """Bring the inputs of an elementwise operator into the channels-last order; None where that fails."""
    import tensorflow as tf

    rank = max(value.last.shape.rank for value in inputs if isinstance(value, Image))
    aligned: list[Any] = []
    for value in inputs:
        if value is None:
            aligned.append(None)
            continue
        if isinstance(value, Image):
            if value.last.shape.rank != rank:
                return None
            aligned.append(value.last)
            continue
        tensor = plain(value)
        if tensor.shape.rank is None or tensor.shape.rank > rank:
            return None
        if tensor.shape.rank == 0:
            aligned.append(embedded(tensor))
            continue
        with folding(tensor):
            wide = tensor[(tf.newaxis,) * (rank - tensor.shape.rank) + (...,)]
            moved = tf.transpose(wide, [0, *range(2, rank), 1])
        aligned.append(embedded(moved))
    return aligned


def _type_of(value: Any) -> Any:
    """Describe a tensor as ONNX does, for operators whose definition depends on their inputs' types."""
    from onnx import TypeProto, helper

    if value is None:
        return TypeProto()
    sizes = None if value.shape.rank is None else value.shape.as_list()
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(_numpy(value)), sizes)


def _numpy(value: Any) -> Any:
    import numpy as np

    return np.dtype(value.dtype.as_numpy_dtype)
