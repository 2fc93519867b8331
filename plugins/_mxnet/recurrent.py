"""The fused recurrent operator, whose weights are one vector in the order of cuDNN.

First the matrices of every layer and direction (of the input, of the state), then their biases. Source:
https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/symbol/symbol.html, operator RNN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from registry_export.format import Array
from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node

_KINDS = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN", "rnn_relu": "RNN"}
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
"""Which of MXNet's gates (i f g o; r z n) stands at each place of ONNX's (i o f g; z r n)."""


@dataclass(frozen=True)
class _Plan:
    mode: str
    layers: int
    directions: int
    hidden: int

    @property
    def rows(self) -> int:
        return len(_GATES[self.mode]) * self.hidden

    def input_size(self, total: int) -> int:
        """Solve the number of weights for the size of the input."""
        deeper = (self.layers - 1) * self.directions * self.rows * (self.directions + 1) * self.hidden
        biases = self.layers * self.directions * 2 * self.rows
        first = total - deeper - biases - self.directions * self.rows * self.hidden
        return first // (self.directions * self.rows)


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer as ONNX has them, directions on the first axis."""

    inputs: Array
    states: Array
    biases: Array


def _unpacked(plan: _Plan, packed: Array) -> list[_Layer]:
    size, at = plan.input_size(packed.size), 0
    matrices: list[tuple[list[Array], list[Array]]] = []

    def take(*shape: int) -> Array:
        nonlocal at
        at += int(np.prod(shape))
        return _in_order(plan, packed[at - int(np.prod(shape)) : at].reshape(shape))

    for layer in range(plan.layers):
        width = size if layer == 0 else plan.directions * plan.hidden
        pairs = [(take(plan.rows, width), take(plan.rows, plan.hidden)) for _ in range(plan.directions)]
        matrices.append(([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    layers = []
    for inputs, states in matrices:
        biases = [np.concatenate([take(plan.rows), take(plan.rows)]) for _ in range(plan.directions)]
        layers.append(_Layer(np.stack(inputs), np.stack(states), np.stack(biases)))
    return layers


def _in_order(plan: _Plan, array: Array) -> Array:
    gates = array.reshape(len(_GATES[plan.mode]), plan.hidden, *array.shape[1:])
    return gates[list(_GATES[plan.mode])].reshape(array.shape)


def _rnn(b: Builder, node: Node, inputs: list[str]) -> tuple[str, ...]:
    mode = str(node.get("mode"))
    clipped = any(node.get(key) is not None for key in ("lstm_state_clip_min", "lstm_state_clip_max"))
    if node.get("projection_size") is not None or clipped or node.get("use_sequence_length", False):
        raise node.unsupported("with a projection, clipped states or lengths has no translation to ONNX here")
    if mode not in _KINDS or inputs[1] not in b.constants:
        raise node.unsupported("whose weights are computed has no translation to ONNX here")
    plan = _Plan(mode, node.get("num_layers"), 2 if node.get("bidirectional", False) else 1, node.get("state_size"))
    x, ends = inputs[0], []
    for number, layer in enumerate(_unpacked(plan, b.constants[inputs[1]])):
        first = [_first_state(b, plan, state, number) for state in inputs[2 : 4 if mode == "lstm" else 3]]
        x, *last = _layer(b, plan, layer, x, first)
        ends.append(last)
    states = [b.op("Concat", *(end[i] for end in ends), axis=0) for i in range(len(ends[0]))]
    return (x, *states) if node.get("state_outputs", False) else (x,)


def _first_state(b: Builder, plan: _Plan, state: str, layer: int) -> str:
    """Return a layer's first state; empty, which is zero, where it is a constant zero of unknown batch."""
    if state in b.constants and not b.constants[state].any():
        return ""
    start, stop = layer * plan.directions, (layer + 1) * plan.directions
    return b.op("Slice", state, b.integers(start), b.integers(stop), b.integers(0))


def _layer(b: Builder, plan: _Plan, layer: _Layer, x: str, first: list[str]) -> tuple[str, ...]:
    weights = [b.constant(array) for array in (layer.inputs, layer.states, layer.biases)]
    attributes: dict[str, object] = {"hidden_size": plan.hidden}
    attributes["direction"] = "bidirectional" if plan.directions == 2 else "forward"
    if plan.mode == "gru":
        attributes["linear_before_reset"] = 1
    if plan.mode == "rnn_relu":
        attributes["activations"] = ["Relu"] * plan.directions
    outputs = 3 if plan.mode == "lstm" else 2
    made, *last = b.ops(_KINDS[plan.mode], outputs, x, *weights, "", *first, **attributes)
    joined = b.op(
        "Reshape", b.op("Transpose", made, perm=[0, 2, 1, 3]), b.integers(0, 0, plan.directions * plan.hidden)
    )
    return b.set_shape(joined, (*b.shape(x)[:2], plan.directions * plan.hidden)), *last


OPERATORS: dict[str, Translate] = {"RNN": _rnn}
