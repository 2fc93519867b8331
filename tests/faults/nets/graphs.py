"""ONNX graphs, and what is changed of them: attributes, constants and the order of a node's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.faults.mutations_of_arrays import bf16, fp16, one_weight, zeros

Array = NDArray[Any]
Plant = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Fault:
    """One thing that is broken: its kind in the table, what it is in words, and how it is planted."""

    kind: str
    name: str
    plant: Plant


@dataclass(frozen=True)
class Net:
    """A source: how it is built, an example of its inputs, and the faults to plant."""

    build: Callable[[], onnx.ModelProto]
    inputs: Mapping[str, Array]
    faults: tuple[Fault, ...]


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def attribute(name: str, **values: Any) -> Plant:
    """Set attributes of a node; None: take one away, so that its default holds."""

    def plant(model: onnx.ModelProto) -> None:
        node = _node(model, name)
        kept = [one for one in node.attribute if one.name not in values]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items() if v is not None)

    return plant


def operator(name: str, kind: str, **values: Any) -> Plant:
    """Put another operator in a node's place."""

    def plant(model: onnx.ModelProto) -> None:
        _node(model, name).op_type = kind
        attribute(name, **values)(model)

    return plant


def constant(name: str, change: Callable[[Array], Array]) -> Plant:
    """Change an initializer; `*`: all floats."""

    def plant(model: onnx.ModelProto) -> None:
        for held in model.graph.initializer:
            array = numpy_helper.to_array(held)
            if held.name == name or (name == "*" and array.dtype == np.float32):
                held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array)), held.name))

    return plant


def exchanged(name: str, first: int, second: int, *, outputs: bool = False) -> Plant:
    """Exchange two inputs, or outputs, of a node."""

    def plant(model: onnx.ModelProto) -> None:
        places = _node(model, name).output if outputs else _node(model, name).input
        places[first], places[second] = places[second], places[first]

    return plant


def from_elsewhere(name: str, position: int, tensor: str) -> Plant:
    """Feed a node from another tensor."""

    def plant(model: onnx.ModelProto) -> None:
        _node(model, name).input[position] = tensor

    return plant


def _both(first: Plant, second: Plant) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        first(model)
        second(model)

    return plant


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _op(kind: str, inputs: str, outputs: str, **values: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=outputs.split()[0], **values)


def _drawn(*shape: int, seed: int) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.4).astype(np.float32)


def _vision() -> onnx.ModelProto:
    nodes = [
        _op("Conv", "image w1 b1", "conv", pads=[0, 1, 1, 0], kernel_shape=[2, 2], strides=[1, 1]),
        _op("BatchNormalization", "conv scale shift mean variance", "norm", epsilon=1e-3),
        _op("LeakyRelu", "norm", "leaky", alpha=0.2),
        _op("Conv", "leaky w2 b2", "wide", kernel_shape=[3, 3], dilations=[2, 2], pads=[2, 2, 2, 2], group=2),
        _op("Resize", "wide nothing scales", "up", mode="linear", coordinate_transformation_mode="half_pixel"),
        _op("Resize", "wide nothing scales", "near", mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor"),
        _op("Concat", "up near", "joined", axis=1),
        _op("AveragePool", "joined", "average", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
            count_include_pad=1),
        _op("MaxPool", "average", "most", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
        _op("Elu", "most", "elu", alpha=0.7),
        _op("Transpose", "elu", "turned", perm=[0, 2, 3, 1]),
        _op("Flatten", "turned", "flat", axis=1),
        _op("Gemm", "flat w3 b3", "scores", alpha=0.5, beta=2.0, transB=1),
        _op("Softmax", "scores", "shares", axis=1),
    ]  # fmt: skip
    constants = {
        "w1": _drawn(4, 2, 2, 2, seed=1), "b1": _drawn(4, seed=2), "scale": _drawn(4, seed=3) + 1,
        "shift": _drawn(4, seed=4), "mean": _drawn(4, seed=5), "variance": np.abs(_drawn(4, seed=6)) + 0.3,
        "w2": _drawn(4, 2, 3, 3, seed=7), "b2": _drawn(4, seed=8), "scales": np.array([1, 1, 2, 2], np.float32),
        "w3": _drawn(128, 128, seed=9)[:, :128], "b3": _drawn(128, seed=10),
        "nothing": np.zeros(0, np.float32),
    }  # fmt: skip
    scores = (TensorProto.FLOAT, ["batch", 128])
    return _model(
        nodes, {"image": (TensorProto.FLOAT, ["batch", 2, 8, 8])}, {"scores": scores, "shares": scores}, constants
    )


_VISION = (
    Fault("padding", "padding begins at the other side", attribute("conv", pads=[1, 0, 0, 1])),
    Fault("padding", "padding is put at the end", attribute("conv", pads=[0, 0, 1, 1])),
    Fault("padding", "SAME_LOWER in place of given sizes", attribute("conv", pads=None, auto_pad="SAME_LOWER")),
    Fault("epsilon", "batch norm with the default epsilon", attribute("norm", epsilon=None)),
    Fault("batch norm statistics", "mean and shift are swapped", exchanged("norm", 2, 3)),
    Fault("batch norm statistics", "the variance is 1", constant("variance", np.ones_like)),
    Fault("default of an argument", "leaky ReLU with the default slope", attribute("leaky", alpha=None)),
    Fault("default of an argument", "ELU with the default alpha", attribute("elu", alpha=None)),
    Fault("alpha ignored", "alpha of Gemm is ignored", attribute("scores", alpha=None)),
    Fault("alpha ignored", "beta of Gemm is ignored", attribute("scores", beta=None)),
    Fault("dilation", "the dilation is ignored", attribute("wide", dilations=[1, 1], pads=[1, 1, 1, 1])),
    Fault("square weight transposed", "transB of Gemm is ignored", attribute("scores", transB=0)),
    Fault("interpolation", "aligned corners",
          attribute("up", coordinate_transformation_mode="align_corners")),
    Fault("interpolation", "pixels are not taken at their centres",
          attribute("up", coordinate_transformation_mode="asymmetric")),
    Fault("interpolation", "cubic in place of linear", attribute("up", mode="cubic")),
    Fault("interpolation", "nearest rounds up", attribute("near", nearest_mode="ceil")),
    Fault("order of parts", "what is joined is in another order", exchanged("joined", 0, 1)),
    Fault("order of parts", "one part is joined twice", from_elsewhere("joined", 1, "up")),
    Fault("pooling", "padding does not count in the average", attribute("average", count_include_pad=0)),
    Fault("pooling", "the average in place of the largest", operator("most", "AveragePool")),
    Fault("axes", "height and width are swapped", attribute("turned", perm=[0, 3, 2, 1])),
    Fault("axes", "the picture is flattened with channels first", attribute("turned", perm=[0, 1, 2, 3])),
    Fault("output order", "scores and shares are swapped",
          lambda model: _swap_outputs(model)),
    Fault("softmax axis", "softmax over the batch", attribute("shares", axis=0)),
    Fault("softmax axis", "logarithms of the softmax", operator("shares", "LogSoftmax")),
    Fault("bias dropped", "the convolution has lost its bias", constant("b1", zeros)),
    Fault("one weight", "one weight out of 16384 is 10 % larger", constant("w3", one_weight)),
    Fault("precision", "the weights are rounded to bf16", constant("*", bf16)),
    Fault("precision", "the weights are rounded to fp16", constant("*", fp16)),
)  # fmt: skip


def _swap_outputs(model: onnx.ModelProto) -> None:
    """Exchange the names of the last two tensors."""
    names = {"scores": "shares", "shares": "scores"}
    for node in model.graph.node:
        for places in (node.input, node.output):
            for position, name in enumerate(places):
                places[position] = names.get(name, name)


def _rows() -> onnx.ModelProto:
    nodes = [
        _op("LayerNormalization", "x gain shift", "norm", epsilon=1e-3, axis=-1),
        _op("Gelu", "norm", "gelu", approximate="none"),
        _op("HardSigmoid", "x", "hard", alpha=1 / 6, beta=0.5),
        _op("Mul", "gelu hard", "gated"),
        _op("MatMul", "gated square", "product"),
        _op("Sub", "product x", "less"),
        _op("Clip", "less low high", "kept"),
        _op("CumSum", "x axis", "sum", exclusive=0, reverse=0),
        _op("Slice", "x starts ends axis", "part"),
        _op("Pad", "part sizes filled axis", "padded", mode="constant"),
        _op("Gather", "table ids", "found", axis=0),
        _op("Add", "found padded", "looked"),
        _op("ArgMax", "x", "best", axis=1, keepdims=0, select_last_index=0),
        _op("Cast", "x", "whole", to=TensorProto.INT32),
        _op("ReduceL2", "x axis", "length", keepdims=1),
    ]
    constants = {
        "gain": _drawn(6, seed=1) + 1, "shift": _drawn(6, seed=2), "square": _drawn(6, 6, seed=3),
        "low": np.array(-40, np.float32), "high": np.array(40, np.float32), "axis": np.array([1], np.int64),
        "starts": np.array([1], np.int64), "ends": np.array([6], np.int64), "sizes": np.array([1, 0], np.int64),
        "filled": np.array(0.5, np.float32), "table": _drawn(40, 6, seed=4),
    }  # fmt: skip
    row = (TensorProto.FLOAT, ["batch", 6])
    outputs = {"kept": row, "sum": row, "looked": row, "best": (TensorProto.INT64, ["batch"]),
               "whole": (TensorProto.INT32, ["batch", 6]), "length": (TensorProto.FLOAT, ["batch", 1])}  # fmt: skip
    return _model(nodes, {"x": row, "ids": (TensorProto.INT64, ["batch"])}, outputs, constants)


_ROWS = (
    Fault("epsilon", "layer norm with the default epsilon", attribute("norm", epsilon=None)),
    Fault("activation", "GELU by tanh", attribute("gelu", approximate="tanh")),
    Fault("activation", "hard sigmoid with ONNX's default slope", attribute("hard", alpha=None)),
    Fault("activation", "the sigmoid in place of the hard one", operator("hard", "Sigmoid", alpha=None, beta=None)),
    Fault("square weight transposed", "the matrix is transposed", constant("square", np.transpose)),
    Fault("input order", "a difference is the other way round", exchanged("less", 0, 1)),
    Fault("alpha ignored", "a difference has lost its sign", operator("less", "Add")),
    Fault("saturation", "the lower limit is 0", constant("low", zeros)),
    Fault("saturation", "the upper limit is 6", constant("high", lambda a: np.full_like(a, 6))),
    Fault("default of an argument", "a running sum leaves itself out", attribute("sum", exclusive=1)),
    Fault("default of an argument", "a running sum goes backwards", attribute("sum", reverse=1)),
    Fault("last row or column", "a slice begins one early and ends one early",
          _both(constant("starts", zeros), constant("ends", lambda a: a - 1))),
    Fault("padding", "the padding is at the end", constant("sizes", lambda a: a[::-1].copy())),
    Fault("padding", "the padding is zeros", constant("filled", zeros)),
    Fault("padding", "the padding repeats the border", attribute("padded", mode="edge")),
    Fault("embedding", "every number is taken for the next one", constant("table", lambda a: np.roll(a, -1, 0))),
    Fault("embedding", "the last number is taken for the one before",
          constant("table", lambda a: np.concatenate([a[:-1], a[-2:-1]]))),
    Fault("index", "of equal values the last one is taken", attribute("best", select_last_index=1)),
    Fault("index", "the smallest in place of the largest", operator("best", "ArgMin")),
    Fault("reduction", "the sum in place of the length", operator("length", "ReduceL1")),
    Fault("bias dropped", "layer norm has lost its shift", constant("shift", zeros)),
    Fault("residual", "what is subtracted is something else", from_elsewhere("less", 1, "gated")),
    Fault("one weight", "one weight of the matrix is 10 % larger", constant("square", one_weight)),
    Fault("precision", "the weights are rounded to bf16", constant("*", bf16)),
)  # fmt: skip


def _floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NETS = {
    "onnx_vision": Net(_vision, {"image": _floats(3, 2, 8, 8)}, _VISION),
    "onnx_rows": Net(_rows, {"x": _floats(3, 6), "ids": np.array([3, 0, 25])}, _ROWS),
}
