"""TensorFlow's operators that tf2onnx does not know, in those of ONNX.

Each function takes tf2onnx's graph and node, puts nodes with the same output in its place, and is listed in
`HANDLERS`.

Source: https://github.com/onnx/tensorflow-onnx#--custom-ops
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class _Place:
    """A node that is replaced: its inputs, and nodes in its stead."""

    def __init__(self, graph: Any, node: Any) -> None:
        from tf2onnx import utils

        self.graph, self.inputs, self._node = graph, list(node.input), node
        self.dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
        self._unique = utils.make_name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its output."""
        made: str = self.graph.make_node(kind, list(inputs), attr=attributes or None).output[0]
        return made

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Add a constant, by default of the type of the first input."""
        array = np.array(value, dtype=dtype or self.dtype)
        made: str = self.graph.make_const(self._unique(self._node.name), array).output[0]
        return made

    def finish(self, kind: str, *inputs: str, **attributes: Any) -> Any:
        """Let a node give what the replaced one gave."""
        node = self._node
        outputs, shapes, dtypes = list(node.output), node.output_shapes, node.output_dtypes
        self.graph.remove_node(node.name)
        return self.graph.make_node(
            kind, list(inputs), attr=attributes or None, outputs=outputs, shapes=shapes, dtypes=dtypes
        )


def _erfc(place: _Place) -> Any:
    return place.finish("Sub", place.constant(1), place.op("Erf", place.inputs[0]))


def _log1p(place: _Place) -> Any:
    return place.finish("Log", place.op("Add", place.inputs[0], place.constant(1)))


def _expm1(place: _Place) -> Any:
    return place.finish("Sub", place.op("Exp", place.inputs[0]), place.constant(1))


def _zero_where(place: _Place, deciding: str, otherwise: str) -> Any:
    from onnx import TensorProto

    # `Equal` takes no floats below opset 11. What is not a number is not zero.
    is_zero = place.op("Not", place.op("Cast", deciding, to=TensorProto.BOOL))
    return place.finish("Where", is_zero, place.constant(0), otherwise)


def _xlogy(place: _Place) -> Any:
    x, y = place.inputs
    return _zero_where(place, x, place.op("Mul", x, place.op("Log", y)))


def _xdivy(place: _Place) -> Any:
    x, y = place.inputs
    return _zero_where(place, x, place.op("Div", x, y))


def _mul_no_nan(place: _Place) -> Any:
    x, y = place.inputs
    return _zero_where(place, y, place.op("Mul", x, y))


def _bucketize(graph: Any, node: Any) -> Any:
    """Count the boundaries that are not above a value."""
    from onnx import TensorProto
    from tf2onnx.graph_builder import GraphBuilder

    boundaries = list(node.get_attr_value("boundaries"))
    place, build = _Place(graph, node), GraphBuilder(graph)
    rank = graph.get_rank(node.input[0])
    last = -1 if rank is None else rank  # below opset 11 no axis is counted from the end
    x = place.op("Cast", place.inputs[0], to=TensorProto.FLOAT)
    x = build.make_unsqueeze({"data": x, "axes": [last]})
    reached = place.op("Not", place.op("Less", x, place.constant(boundaries, np.float32)))
    counted = build.make_reduce_sum(
        {"data": place.op("Cast", reached, to=TensorProto.FLOAT), "axes": [last], "keepdims": 0}
    )
    return place.finish("Cast", counted, to=TensorProto.INT32)


def _at(handler: Callable[[_Place], Any]) -> Callable[[Any, Any], Any]:
    return lambda graph, node: handler(_Place(graph, node))


_HANDLERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Erfc": _at(_erfc),
    "Log1p": _at(_log1p),
    "Expm1": _at(_expm1),
    "Xlogy": _at(_xlogy),
    "Xdivy": _at(_xdivy),
    "MulNoNan": _at(_mul_no_nan),
    "Bucketize": _bucketize,
}


def handlers() -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """Return what tf2onnx takes as `custom_op_handlers`."""
    return {
        operator: (lambda graph, node, name, args, handler=handler: handler(graph, node), [])
        for operator, handler in _HANDLERS.items()
    }
