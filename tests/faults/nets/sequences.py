"""Nets over sequences: recurrent ones and one-dimensional convolutions, and what converters get wrong."""

from __future__ import annotations

import torch
from torch import nn

from tests.faults.mutations import (
    Apply,
    Fault,
    Net,
    before,
    both,
    brain,
    edit,
    every,
    floats,
    half,
    one_weight,
    permuted,
    put,
    tensor,
)
from tests.models import seeded


class Lstm(nn.Module):
    """A bidirectional LSTM with an initial state that was learned; the length is dynamic."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.states = nn.Identity(), nn.Identity()
        self.cell = nn.LSTM(5, 5, batch_first=True, bidirectional=True)
        self.state, self.memory = nn.Parameter(torch.zeros(2, 1, 5)), nn.Parameter(torch.zeros(2, 1, 5))
        self.head = nn.Linear(10, 3)
        self.at = -1

    def forward(self, sequence):
        rows = torch.zeros_like(sequence[:, 0, 0])[None, :, None]
        states, _ = self.cell(self.given(sequence), (self.state + rows, self.memory + rows))
        states = self.states(states)
        return self.head(torch.cat([states[:, self.at], states.mean(1)], -1)[:, 5:15])


def _gates(*order: int):
    """Put the gates into another order."""
    return lambda held: torch.cat([held.chunk(len(order))[position] for position in order])


class Halves(nn.Module):
    """Swap forward and backward states."""

    def forward(self, x):
        return x.roll(x.shape[-1] // 2, -1)


class FirstSteps(nn.Module):
    """Keep so many steps, as a trace with a fixed length does."""

    def __init__(self, count: int, axis: int) -> None:
        super().__init__()
        self.count, self.axis = count, axis

    def forward(self, x):
        return x.transpose(0, self.axis)[: self.count].transpose(0, self.axis)


_TRANSPOSE = lambda held: torch.cat([part.T for part in held.chunk(4)])  # noqa: E731

_LSTM = (
    Fault("gate order", "forget and cell gate are swapped", permuted("cell", _gates(0, 2, 1, 3))),
    Fault("gate order", "the gates are in ONNX's order", permuted("cell", _gates(0, 3, 1, 2))),
    Fault("gate order", "input and output gate are swapped", permuted("cell", _gates(3, 1, 2, 0))),
    Fault("initial state", "the initial state is ignored",
          both(tensor("state", torch.zeros_like), tensor("memory", torch.zeros_like))),
    Fault("initial state", "the initial memory is ignored", tensor("memory", torch.zeros_like)),
    Fault("initial state", "both directions begin with the same state",
          tensor("state", lambda state: state[:1].repeat(2, 1, 1))),
    Fault("order of parts", "forward and backward states are swapped", put("states", Halves())),
    Fault("square weight transposed", "the recurrent weights are transposed",
          tensor("cell.weight_hh_l0", _TRANSPOSE)),
    Fault("square weight transposed", "the input weights are transposed", tensor("cell.weight_ih_l0", _TRANSPOSE)),
    Fault("bias dropped", "the recurrent bias is lost", tensor("cell.bias_hh_l0", torch.zeros_like)),
    Fault("bias dropped", "the bias is added twice", tensor("cell.bias_ih_l0", lambda bias: 2 * bias)),
    Fault("dynamic length", "the last step but one is taken for the last", edit("", at=-2)),
    Fault("dynamic length", "the seventh step is taken for the last", edit("", at=6)),
    Fault("dynamic length", "all steps beyond the seventh are lost", put("given", FirstSteps(7, 1))),
    Fault("dynamic length", "the last step is lost", put("given", Apply("without last", 1))),
    Fault("axes", "the sequence is reversed", put("given", Apply("flip", 1))),
    Fault("one weight", "one recurrent weight is 10 % larger", tensor("cell.weight_hh_l0", one_weight)),
    Fault("precision", "the weights are rounded to bf16", every(brain)),
    Fault("precision", "the weights are rounded to fp16", every(half)),
    Fault("batch", "all rows get the first row's answer", put("states", Apply("first row"))),
)  # fmt: skip


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, sequence):
        states, last = self.cell(sequence)
        return self.head(states), last[-1]


class Unrolled(nn.Module):
    """A GRU that resets the state before the matrix product, as Keras's older ones do."""

    def __init__(self, cell: nn.GRU) -> None:
        super().__init__()
        self.cell = cell

    def _layer(self, x, number):
        w_ih, w_hh, b_ih, b_hh = (
            getattr(self.cell, f"{name}_l{number}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, states = torch.zeros_like(x[:, 0, :1]) + torch.zeros(6, dtype=x.dtype), []
        for step in range(7):
            given = x[:, step] @ w_ih.T + b_ih
            r = torch.sigmoid(given[:, :6] + h @ w_hh[:6].T + b_hh[:6])
            z = torch.sigmoid(given[:, 6:12] + h @ w_hh[6:12].T + b_hh[6:12])
            n = torch.tanh(given[:, 12:] + (r * h) @ w_hh[12:].T + b_hh[12:])
            h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, x):
        states = self._layer(self._layer(x, 0), 1)
        return states, states[:, -1][None]


_GRU = (
    Fault("gate order", "reset and update gate are swapped", permuted("cell", _gates(1, 0, 2))),
    Fault("gate order", "the gates of the second layer are reversed",
          both(tensor("cell.weight_ih_l1", _gates(2, 1, 0)), tensor("cell.weight_hh_l1", _gates(2, 1, 0)))),
    Fault("gate order", "the state is reset before the product", lambda net: put("cell", Unrolled(net.cell))(net)),
    Fault("bias dropped", "the recurrent bias is lost", tensor("cell.bias_hh_l0", torch.zeros_like)),
    Fault("bias dropped", "the recurrent bias is added outside of the reset",
          both(tensor("cell.bias_hh_l1", torch.zeros_like), tensor("cell.bias_ih_l1", lambda bias: 2 * bias))),
    Fault("square weight transposed", "the recurrent weights are transposed",
          tensor("cell.weight_hh_l1", lambda held: torch.cat([part.T for part in held.chunk(3)]))),
    Fault("axes", "the sequence is reversed", before("cell", Apply("flip", 1))),
    Fault("dynamic length", "the last step is lost", before("cell", Apply("without last", 1))),
    Fault("dynamic length", "the sequence begins one step late", before("cell", Apply("moved", 1, 1))),
    Fault("one weight", "one weight of the second layer is 10 % larger", tensor("cell.weight_ih_l1", one_weight)),
    Fault("precision", "the weights are rounded to bf16", every(brain)),
    Fault("saturation", "the input is clipped to -1..1", before("cell", Apply("clamp", -1.0, 1.0))),
)  # fmt: skip


class Audio(nn.Module):
    """One-dimensional convolutions over an open length."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Identity()
        self.wide = nn.Conv1d(2, 8, 5, padding=4, dilation=2)
        self.norm = nn.GroupNorm(2, 8)
        self.gated = nn.GLU(1)
        self.slope = nn.PReLU(4)
        self.down = nn.Conv1d(4, 4, 4, stride=2, padding=1)
        self.active = nn.Softplus()

    def forward(self, wave):
        x = self.gated(self.norm(self.wide(self.wave(wave))))
        return self.active(self.down(self.slope(x))).mean(2)


class OtherHalf(nn.Module):
    """A gated linear unit whose halves are swapped."""

    def forward(self, x):
        value, gate = x.chunk(2, 1)
        return gate * torch.sigmoid(value)


_AUDIO = (
    Fault("dilation", "the dilation is ignored", edit("wide", dilation=(1,), padding=(2,))),
    Fault("groups", "group norm over all channels", edit("norm", num_groups=1)),
    Fault("groups", "group norm over each channel", edit("norm", num_groups=8)),
    Fault("epsilon", "group norm with epsilon 1e-3", edit("norm", eps=1e-3)),
    Fault("order of parts", "the halves of the gated unit are swapped", put("gated", OtherHalf())),
    Fault("default of an argument", "the first channel's slope serves all channels",
          tensor("slope.weight", lambda slope: slope[:1].repeat(4))),
    Fault("default of an argument", "the slopes are the default", tensor("slope.weight", lambda s: 0 * s + 0.25)),
    Fault("stride phase", "the strided convolution begins at another sample",
          both(edit("down", padding=(0,)), before("down", Apply("pad", (0, 2), "constant")))),
    Fault("padding", "the first convolution is causal",
          both(edit("wide", padding=(0,)), before("wide", Apply("pad", (8, 0), "constant")))),
    Fault("activation", "ReLU in place of softplus", put("active", nn.ReLU())),
    Fault("activation", "softplus with another beta", put("active", nn.Softplus(beta=1.1))),
    Fault("dynamic length", "the last sample is lost", put("wave", Apply("without last", 2))),
    Fault("dynamic length", "samples beyond the sixteenth are lost", put("wave", FirstSteps(16, 2))),
    Fault("axes", "the kernel is turned round", tensor("down.weight", lambda w: torch.flip(w, (2,)))),
    Fault("one weight", "one weight of the first convolution is 10 % larger", tensor("wide.weight", one_weight)),
    Fault("precision", "the weights are rounded to bf16", every(brain)),
)  # fmt: skip


_LENGTH = {"sequence": {1: "length"}}
NETS = {
    "lstm": Net(lambda: seeded(Lstm()), {"sequence": floats(3, 7, 5)}, _LSTM, _LENGTH),
    "gru": Net(lambda: seeded(Gru()), {"sequence": floats(3, 7, 4)}, _GRU),
    "audio": Net(lambda: seeded(Audio()), {"wave": floats(3, 2, 16)}, _AUDIO, {"wave": {2: "length"}}),
}
