"""PyTorch models that between them have what real ones have, small enough to convert in a second."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn


def seeded(module: nn.Module) -> nn.Module:
    """Draw every weight and every batch-norm statistic anew, so that nothing is 0 or 1 by luck."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.2
                tensor.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)
    return module


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(8, 10)

    def forward(self, x):
        return self.classify(self.dropout(torch.flatten(self.features(x), 1)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return torch.relu(self.second(torch.relu(self.norm(self.first(image)))) + image)


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12),
            nn.BatchNorm2d(12),
            nn.Hardswish(),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x):
        return self.layers(x).mean((2, 3))


class Recurrent(nn.Module):
    """The sequence's length is meant to be dynamic."""

    def __init__(self, cell: str = "LSTM") -> None:
        super().__init__()
        self.cell = getattr(nn, cell)(4, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, sequence):
        states, _ = self.cell(sequence)
        return self.head(states[:, -1])


class Transformer(nn.Module):
    """Token ids and a mask in, as BERT takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.positions = nn.Embedding(64, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids, attention_mask=None):
        batch, length = input_ids.shape
        hidden = self.tokens(input_ids) + self.positions(torch.arange(length, device=input_ids.device))

        def heads(x):
            return x.view(batch, length, 4, 4).transpose(1, 2)

        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        attended = nn.functional.scaled_dot_product_attention(
            heads(self.query(hidden)), heads(self.key(hidden)), heads(self.value(hidden)), attn_mask=mask
        )
        hidden = self.norm(hidden + attended.transpose(1, 2).reshape(batch, length, 16))
        return {"last_hidden_state": hidden, "logits": self.head(nn.functional.gelu(hidden))}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(6, 4)
        self.table = nn.Linear(3, 4)

    def forward(self, image, table, *, scale=None):
        joined = self.image(image) - 2 * self.table(table)
        return joined if scale is None else joined * scale


class TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        y = self.layer(x)
        return y, (y.argmax(1), None, [y > 0, 3])


class Pair(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


@dataclass
class Prediction:
    scores: torch.Tensor
    bounds: Pair
    extra: torch.Tensor | None = None


class DataclassOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        y = self.layer(x)
        return Prediction(y.softmax(-1), Pair(y.min(), y.max()))


class DictOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        y = self.layer(x)
        return OrderedDict(zeta=y, alpha={"sum": y.sum(1), "copy": y})


class PythonIf(nn.Module):
    """Its branch depends on its data: a trace keeps only one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(4, 3)
        self.negative = nn.Linear(4, 3)

    def forward(self, x):
        if x.sum() > 0:
            return torch.relu(self.positive(x)) + 5
        return torch.tanh(self.negative(x))


class Cond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Linear(4, 3)
        self.negative = nn.Linear(4, 3)

    def forward(self, x):
        return torch.cond(
            x.sum() > 0, lambda x: torch.relu(self.positive(x)) + 5, lambda x: torch.tanh(self.negative(x)), (x,)
        )


class DictInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch):
        return self.layer(batch["a"]) + self.layer(batch["b"])


class EncoderLayers(nn.Module):
    """PyTorch's own transformer layers, which call fused kernels when nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        return self.layers(x).mean(1)


class KeywordOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, *, x, shift=1.0):
        return self.layer(x) + shift


class PassThrough(nn.Module):
    """One output is the input, another is given twice."""

    def forward(self, x):
        y = x * 2
        return {"same": x, "double": y, "again": y}


class BoolInput(nn.Module):
    def forward(self, x, mask):
        return torch.where(mask, x, -x).sum(), [x.masked_fill(mask, 0.0), mask.any(1)]


class NoisyDropout(nn.Module):
    """Drops at random even in evaluation mode."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        x += 1
        return self.layer(x)


class Cache:
    """Neither tensor nor container, as a key-value cache is."""


class WithCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return {"y": self.layer(x), "cache": Cache()}


class Padded(nn.Module):
    """Attends to two positions, and averages over all of them."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)

    def forward(self, x):
        hidden = torch.arange(x.shape[1]).expand(x.shape[0], -1) >= 2
        return self.encoder(x, src_key_padding_mask=hidden).mean(1)


class Inverse(nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x @ x.transpose(-1, -2) + 3 * torch.eye(3))
