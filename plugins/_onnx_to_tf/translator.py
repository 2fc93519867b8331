"""Translates ONNX graphs to TensorFlow functions: dynamic sizes kept, layouts at the interface as in ONNX.

Every operator becomes the TensorFlow operations that compute the same; what is known while translating
is computed here and not in the graph. Model-local functions are inlined first, and an operator that has no
translator but is defined by ONNX as a function of simpler ones is expanded by that definition.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError, SourceError, UnsupportedModelError
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
    to_dtype,
)
from registry_export_plugins._onnx_to_tf.graph import attributes_of, expansion, missing, prepare
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, dimensions, trace

LARGEST_CONSTANT = 4096
"""Initializers with more elements become variables; smaller ones are constants in the graph."""

Environment = dict[str, Any]


def translate(path: Path, interface: Interface | None = None) -> TensorFlowFunction:
    """Translate an ONNX file.

    Args:
        path: The `.onnx` file; external data beside it.
        interface: Names and order to keep, and sizes to fix where the file leaves them open.

    Raises:
        UnsupportedModelError: Operators have no translation; names their types and nodes.
        ConversionError: TensorFlow refused what an operator became.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise SourceError(f"The ONNX file {path.name} cannot be read: {error}") from error
    return translate_model(model, interface)


def translate_model(model: Any, interface: Interface | None = None) -> TensorFlowFunction:
    """Translate a `ModelProto`; see `translate`."""
    import tensorflow as tf

    _import_translators()
    model = prepare(model)
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
    unknown = missing(model.graph, opsets)
    if unknown:
        listed = ", ".join(f"{name} ({', '.join(places[:3])})" for name, places in sorted(unknown.items()))
        raise UnsupportedModelError(f"These ONNX operators have no translation to TensorFlow: {listed}.")
    owner = tf.Module()
    graph = Graph(model.graph, opsets)
    owner.graph = graph  # A traced function does not keep its variables alive.
    own, inputs = _inputs(model.graph, interface)
    names = [value.name for value in model.graph.output]

    def call(*tensors: Any) -> list[Any]:
        return graph.run(model.graph, dict(zip(own, tensors, strict=True)))

    if interface is not None and {spec.name for spec in interface.outputs} == set(names):
        names = [spec.name for spec in interface.outputs]
        order = [[value.name for value in model.graph.output].index(name) for name in names]

        def ordered(*tensors: Any) -> list[Any]:
            results = call(*tensors)
            return [results[i] for i in order]

        return trace(ordered, inputs, names, owner)
    if interface is not None and len(interface.outputs) == len(names):
        names = [spec.name for spec in interface.outputs]
    return trace(call, inputs, names, owner)


def _import_translators() -> None:
    """Import the modules that register translators."""
    from registry_export_plugins._onnx_to_tf import (  # noqa: F401
        activation,
        control,
        convolution,
        elementwise,
        indexing,
        normalization,
        padding,
        pooling,
        quantization,
        recurrent,
        reduction,
        resize,
        sequence,
        shape,
    )


def _inputs(graph: Any, interface: Interface | None) -> tuple[list[str], tuple[TensorSpec, ...]]:
    """Return the graph's own names of its inputs, and what the interface calls and asks of each.

    The interface decides the order; where its names are not the graph's, the order of both is the same.
    """
    initialized = {tensor.name for tensor in graph.initializer}
    found = {value.name: _input(value) for value in graph.input if value.name not in initialized}
    if interface is None or len(interface.inputs) != len(found):
        return list(found), tuple(found.values())
    own = [spec.name for spec in interface.inputs]
    if set(own) != set(found):
        own = list(found)
    pairs = zip(own, interface.inputs, strict=True)
    return own, tuple(_fixed(replace(found[name], name=spec.name), spec) for name, spec in pairs)


def _input(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise UnsupportedModelError(f"The ONNX input {value.name} is a sequence, a map or optional, not a tensor.")
    shape = None
    if tensor.HasField("shape"):
        known = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        names = [size.dim_param for size in tensor.shape.dim]
        shape = tuple(
            name if size is None and name else made
            for size, name, made in zip(known, names, dimensions(value.name, known), strict=True)
        )
    return TensorSpec(value.name, to_dtype(tensor.elem_type).name, shape)


def _fixed(found: TensorSpec, asked: TensorSpec) -> TensorSpec:
    if found.shape is None or asked.shape is None or len(found.shape) != len(asked.shape):
        return found
    pairs = zip(found.shape, asked.shape, strict=True)
    return TensorSpec(found.name, found.dtype, tuple(own if isinstance(own, int) else said for own, said in pairs))


class Graph:
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
