"""An ONNX graph while it is built: every value's type and shape known, constants folded at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from registry_export.entities import Dimension
from registry_export.errors import ConversionError
from registry_export.format import Array

OPSET = 17
"""The first with LayerNormalization; what reads ONNX reads it."""
_IR_VERSION = 8

Shape: TypeAlias = tuple[Dimension | None, ...]


class Builder:
    """Nodes in order, with `types` and `constants` by the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.types: dict[str, TypeProto] = {}
        self.constants: dict[str, Array] = {}
        self._place = ""
        self._count = 0

    def enter(self, place: str) -> None:
        """Name what follows after a node of the source."""
        self._place = place

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> None:
        """Declare an input."""
        self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    def constant(self, value: Any, dtype: Any = None, name: str = "") -> str:
        """Add a constant and return its name."""
        array = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.array(value, dtype)
        name = name or self._fresh("constant")
        self.constants[name] = array
        self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of int64."""
        return self.constant(list(values), np.int64)

    def like(self, value: Any, other: str) -> str:
        """Add a constant of another value's type."""
        return self.constant(value, self.dtype(other))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name; of constants it is a constant."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs and return their names."""
        names = [self._fresh(kind) for _ in range(outputs)]
        node = helper.make_node(kind, inputs, names, name=names[0], **attributes)
        given = [name for name in inputs if name]
        if given and all(name in self.constants for name in given):
            values = ReferenceEvaluator(node).run(None, {name: self.constants[name] for name in given})
            return tuple(self.constant(value, name=name) for name, value in zip(names, values, strict=True))
        self.nodes.append(node)
        self.types |= self._inferred(node, given)
        return tuple(names)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return a value's element type."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.types[name].tensor_type.elem_type))

    def shape(self, name: str) -> Shape:
        """Return a value's shape: sizes, names, and None for what is not known.

        Raises:
            ConversionError: Not even its rank is known.
        """
        tensor = self.types[name].tensor_type
        if not tensor.HasField("shape"):
            raise ConversionError(
                f"The rank of what the node {self._place} takes is not known.",
                remedy="Log the model with a signature that has the shapes of its inputs.",
            )
        return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)

    def rank(self, name: str) -> int:
        """Return a value's rank."""
        return len(self.shape(name))

    def has_fixed_shape(self, name: str) -> bool:
        """Whether every size is known."""
        tensor = self.types[name].tensor_type
        return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)

    def axis(self, name: str, axis: int) -> int:
        """Return an axis counted from the front."""
        return axis % self.rank(name)

    def set_shape(self, name: str, shape: Sequence[Dimension | None]) -> str:
        """Say what is known of a shape that inference does not find; return the value's name."""
        kind = self.types[name].tensor_type.elem_type
        self.types[name] = helper.make_tensor_type_proto(kind, shape)
        return name

    def cast(self, name: str, dtype: Any) -> str:
        """Bring a value to a type."""
        wanted = np.dtype(dtype)
        return name if self.dtype(name) == wanted else self.op("Cast", name, to=helper.np_dtype_to_tensor_dtype(wanted))

    def model(self, inputs: Sequence[str], outputs: Sequence[tuple[str, str]]) -> onnx.ModelProto:
        """Make the model: inputs, and outputs as pairs of a value and the name to give it."""
        for value, name in outputs:
            self.nodes.append(helper.make_node("Identity", [value], [name], name=f"{name}/Identity"))
            self.types[name] = self.types[value]
        nodes = self._needed([name for _, name in outputs])
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "mxnet",
            [helper.make_value_info(name, self.types[name]) for name in inputs if name in used],
            [helper.make_value_info(name, self.types[name]) for _, name in outputs],
            [numpy_helper.from_array(self.constants[name], name) for name in self.constants if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=opsets, producer_name="registry-export")

    def _needed(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]

    def _inferred(self, node: onnx.NodeProto, given: list[str]) -> dict[str, TypeProto]:
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        types = {name: self.types[name] for name in given}
        data = {n: numpy_helper.from_array(self.constants[n], n) for n in given if n in self.constants}
        small = {name: tensor for name, tensor in data.items() if self.constants[name].size <= 64}
        try:
            found: dict[str, TypeProto] = onnx.shape_inference.infer_node_outputs(
                schema, node, types, small, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
            )
        except onnx.shape_inference.InferenceError as error:
            raise ConversionError(f"The node {self._place} does not fit its inputs: {error}") from error
        return found

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{self._place}/{kind}_{self._count}"
