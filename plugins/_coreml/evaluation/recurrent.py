"""Recurrent layers. Sequences are laid out as (steps, batch, features)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from registry_export_plugins._coreml.evaluation.activation import sigmoid
from registry_export_plugins._coreml.evaluation.registry import Tensor, flag, operator, unknown

Function: TypeAlias = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[str, Function] = {
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "scaled_tanh": lambda x: 1.7159 * np.tanh(x * (2 / 3)),
    "sigmoid": sigmoid,
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "tanh": np.tanh,
}


def _function(name: str) -> Function:
    if name not in _FUNCTIONS:
        raise unknown(f"with the activation {name}")
    return _FUNCTIONS[name]


def _turned(x: Tensor, direction: str) -> Tensor:
    if direction not in ("forward", "reverse"):
        raise unknown(f"with the direction {direction}")
    return np.flip(x, 0) if direction == "reverse" else x


def _finished(steps: list[Tensor], direction: str, output_sequence: Any) -> Tensor:
    return _turned(np.stack(steps), direction) if flag(output_sequence) else steps[-1][None]


@operator()
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a long short-term memory, in one direction or in both."""
    functions = tuple(_function(name) for name in (recurrent_activation, cell_activation, activation))
    forward = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        return _lstm(x, initial_h, initial_c, forward, functions, direction, output_sequence)
    size = weight_hh.shape[1]
    back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    ways = [
        _lstm(x, initial_h[:, :size], initial_c[:, :size], forward, functions, "forward", output_sequence),
        _lstm(x, initial_h[:, size:], initial_c[:, size:], back, functions, "reverse", output_sequence),
    ]
    sequence, hidden, cell = (np.concatenate(parts, -1) for parts in zip(*ways, strict=True))
    return sequence, hidden, cell


def _lstm(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weights: Any,
    functions: tuple[Function, ...],
    direction: str,
    output_sequence: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    weight_ih, weight_hh, bias, peephole = weights
    gate, inner, outer = functions
    given = _turned(np.matmul(x, weight_ih.T) + (0 if bias is None else bias), direction)
    looks = np.split(peephole, 3) if peephole is not None else (0, 0, 0)
    steps = []
    for step in given:
        # input, forget, output and cell gate
        i, f, o, z = np.split(step + hidden @ weight_hh.T, 4, -1)
        cell_before = cell
        cell = gate(f + looks[1] * cell_before) * cell_before + gate(i + looks[0] * cell_before) * inner(z)
        hidden = gate(o + looks[2] * cell) * outer(cell)
        steps.append(hidden)
    return _finished(steps, direction, output_sequence), hidden, cell


@operator()
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Run a gated recurrent unit."""
    gate, outer = _function(recurrent_activation), _function(activation)
    given = _turned(np.matmul(x, weight_ih.T) + (0 if bias is None else bias), direction)
    hidden, steps = initial_h, []
    for step in given:
        # reset, output and update gate
        r, o, z = np.split(step, 3, -1)
        from_r, from_o, from_z = np.split(hidden @ weight_hh.T, 3, -1)
        update = gate(z + from_z)
        hidden = (1 - update) * outer(o + gate(r + from_r) * from_o) + update * hidden
        steps.append(hidden)
    return _finished(steps, direction, output_sequence), hidden


@operator()
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Run a simple recurrent layer."""
    outer = _function(activation)
    given = _turned(np.matmul(x, weight_ih.T) + (0 if bias is None else bias), direction)
    hidden, steps = initial_h, []
    for step in given:
        hidden = outer(step + hidden @ weight_hh.T)
        steps.append(hidden)
    return _finished(steps, direction, output_sequence), hidden
