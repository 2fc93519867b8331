"""Nets over token ids, with attention and a causal convolution, and what converters get wrong about them."""

from __future__ import annotations

import numpy as np
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
    half,
    one_weight,
    put,
    tensor,
)
from tests.models import seeded


class Transformer(nn.Module):
    """Token ids and a mask in, as BERT takes them; what is variable about it are attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(300, 16), nn.Embedding(64, 16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.wide, self.narrow, self.active = nn.Linear(16, 32), nn.Linear(32, 16), nn.GELU()
        self.ids, self.states, self.merge = nn.Identity(), nn.Identity(), nn.Identity()
        self.offset, self.scale, self.axis, self.hidden = 0, 0.5, -1, -1e9
        self.residual, self.before_norm = 1.0, False

    def _heads(self, x):
        return x.unflatten(-1, (4, 4)).transpose(1, 2)

    def _attend(self, x, mask):
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * self.scale
        scores = scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * self.hidden
        attended = torch.softmax(scores, self.axis) @ value
        return self.out(self.merge(attended.transpose(1, 2)).flatten(2))

    def forward(self, input_ids, attention_mask):
        ids = self.ids(input_ids)
        positions = torch.cumsum(torch.ones_like(ids), 1) - 1 + self.offset
        x = self.tokens(ids) + self.positions(positions)
        x = self.first(self.residual * x + self._attend(x, attention_mask))
        inner = self.narrow(self.active(self.wide(x)))
        return self.states(x + self.second(inner) if self.before_norm else self.second(x + inner))


_IDS = np.random.default_rng(0).integers(1, 120, (3, 7))
_MASK = (np.arange(7) < np.array([[7], [5], [3]])).astype(np.int64)

_TRANSFORMER = (
    Fault("mask", "the mask is ignored", edit("", hidden=0.0)),
    Fault("mask", "what is masked counts a little", edit("", hidden=-4.0)),
    Fault("mask", "the mask shows what it should hide", edit("", hidden=1e9)),
    Fault("softmax axis", "softmax over the queries", edit("", axis=-2)),
    Fault("softmax axis", "softmax over the heads", edit("", axis=1)),
    Fault("default of an argument", "attention is not scaled", edit("", scale=1.0)),
    Fault("default of an argument", "attention is scaled by the whole width", edit("", scale=0.25)),
    Fault("positions", "positions begin at 1", edit("", offset=1)),
    Fault("positions", "there are no positions", tensor("positions.weight", torch.zeros_like)),
    Fault("embedding", "every token is taken for the next one", put("ids", Apply("shift", 1))),
    Fault("embedding", "tokens beyond 127 are taken for 127", put("ids", Apply("ids", 0, 127))),
    Fault("embedding", "tokens are taken modulo 256", put("ids", Apply("wrap", 256))),
    Fault("embedding", "the last token of the vocabulary is cut off", put("ids", Apply("ids", 0, 298))),
    Fault("embedding", "token 0 is taken for token 1", put("ids", Apply("ids", 1, 299))),
    Fault("epsilon", "layer norm with epsilon 1e-3", edit("first", eps=1e-3)),
    Fault("epsilon", "layer norm with epsilon 1e-12", edit("second", eps=1e-12)),
    Fault("normalised twice", "the input is normalised once more",
          before("wide", Apply("normalize", 1e-5))),
    Fault("residual", "the residual around attention is missing", edit("", residual=0.0)),
    Fault("residual", "layer norm before the residual is added", edit("", before_norm=True)),
    Fault("activation", "GELU by tanh", edit("active", approximate="tanh")),
    Fault("activation", "ReLU in place of GELU", put("active", nn.ReLU())),
    Fault("square weight transposed", "the values' weight is transposed", tensor("value.weight", lambda w: w.T)),
    Fault("square weight transposed", "the output's weight is transposed", tensor("out.weight", lambda w: w.T)),
    Fault("order of parts", "queries and keys are swapped",
          lambda net: both(put("query", net.key), put("key", net.query))(net)),
    Fault("axes", "the heads are merged in another order", put("merge", Apply("swap", 2, 3))),
    Fault("bias dropped", "the queries have lost their bias", tensor("query.bias", torch.zeros_like)),
    Fault("bias dropped", "layer norm has lost its shift", tensor("second.bias", torch.zeros_like)),
    Fault("batch", "all rows get the first row's answer", put("states", Apply("first row"))),
    Fault("one weight", "one weight of the values is 10 % larger", tensor("value.weight", one_weight)),
    Fault("precision", "the weights are rounded to bf16", every(brain)),
    Fault("precision", "the weights are rounded to fp16", every(half)),
    Fault("dynamic length", "the last position is lost", put("states", Apply("without last", 1))),
)  # fmt: skip


class Tokens(nn.Module):
    """Ids alone: two tables, a bag, and a causal convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Identity()
        self.table = nn.Embedding(200, 8, padding_idx=0)
        self.causal = nn.Sequential(Apply("pad", (2, 0), "constant"), nn.Conv1d(8, 8, 3))
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.table(self.ids(ids))
        states = torch.relu(self.causal(x.transpose(1, 2))).transpose(1, 2)
        known = (ids > 0).to(x.dtype)[:, :, None]
        return self.head((states * known).sum(1) / known.sum(1).clamp(min=1.0))


_TOKENS = (
    Fault("embedding", "every token is taken for the one before", put("ids", Apply("shift", -1))),
    Fault("embedding", "tokens saturate at 127", put("ids", Apply("ids", 0, 127))),
    Fault("embedding", "the last token is cut off", put("ids", Apply("ids", 0, 198))),
    Fault("embedding", "the padding has a vector", tensor("table.weight", lambda w: w + 0.3 * (w == 0))),
    Fault("padding", "the causal convolution pads on both sides",
          put("causal.0", Apply("pad", (1, 1), "constant"))),
    Fault("padding", "the causal convolution pads at the end", put("causal.0", Apply("pad", (0, 2), "constant"))),
    Fault("axes", "the kernel is turned round", tensor("causal.1.weight", lambda w: torch.flip(w, (2,)))),
    Fault("square weight transposed", "input and output channels are swapped",
          tensor("causal.1.weight", lambda w: w.transpose(0, 1).contiguous())),
    Fault("one weight", "one number of the table is 10 % larger", tensor("table.weight", one_weight)),
    Fault("bias dropped", "the head has lost its bias", tensor("head.bias", torch.zeros_like)),
    Fault("precision", "the table is rounded to bf16", tensor("table.weight", brain)),
)  # fmt: skip

NETS = {
    "transformer": Net(
        lambda: seeded(Transformer()),
        {"input_ids": _IDS, "attention_mask": _MASK},
        _TRANSFORMER,
        {"input_ids": {1: "length"}, "attention_mask": {1: "length"}},
    ),
    "tokens": Net(
        lambda: seeded(Tokens()),
        {"ids": np.random.default_rng(1).integers(0, 100, (3, 6))},
        _TOKENS,
        {"ids": {1: "length"}},
    ),
}
