"""Nets with a fault each, planted in one of their modules; sources for the search of the place."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn


class Block(nn.Module):
    """A residual block with a branch beside it, whose order of execution is not that of the data."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.beside = nn.Conv2d(channels, channels, 1)
        self.act2 = nn.ReLU()

    def forward(self, x):
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(y + self.beside(x))


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = Block(8)
        self.second = Block(8)
        self.smooth = nn.LeakyReLU(0.1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(32, 32)
        self.gate = nn.Sigmoid()
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.smooth(self.second(self.first(self.stem(x))) - 0.5)
        return self.head(self.gate(self.hidden(torch.flatten(self.pool(x), 1))))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        weights = torch.softmax(self.query(y) @ self.key(y).transpose(1, 2) / y.shape[-1] ** 0.5, -1)
        x = x + self.out(weights @ self.value(y))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.layers = nn.Sequential(Attention(16), Attention(16), Attention(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)))


def _worn(net: nn.Module) -> nn.Module:
    """Give batch norms statistics as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.5 + 0.05)
    return net.eval()


def _set(net: nn.Module, place: str, attribute: str, value: object) -> None:
    setattr(net.get_submodule(place), attribute, value)


def _swap(net: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(net.get_submodule(parent), name, module)


def _transpose(net: nn.Module, place: str) -> None:
    with torch.no_grad():
        weight = net.get_submodule(place).weight
        weight.copy_(weight.t().clone() if weight.ndim == 2 else weight.transpose(0, 1).clone())


FAULTS = {
    "pictures": {
        "wrong epsilon": ("second.bn1", lambda net: _set(net, "second.bn1", "eps", 0.01)),
        "transposed convolution": ("first.conv2", lambda net: _transpose(net, "first.conv2")),
        "changed alpha": ("smooth", lambda net: _set(net, "smooth", "negative_slope", 0.2)),
        "transposed weight": ("hidden", lambda net: _transpose(net, "hidden")),
        "another activation": ("gate", lambda net: _swap(net, "gate", nn.Hardsigmoid())),
        "activation left out": ("second.act2", lambda net: _swap(net, "second.act2", nn.Identity())),
    },
    "rows": {
        "another activation": ("layers.1.act", lambda net: _swap(net, "layers.1.act", nn.SiLU())),
        "transposed weight": ("layers.0.out", lambda net: _transpose(net, "layers.0.out")),
        "wrong epsilon": ("layers.2.norm2", lambda net: _set(net, "layers.2.norm2", "eps", 0.05)),
    },
}
"""Net -> what is planted -> the module that it is planted in, and how."""


def build(net: str) -> nn.Module:
    """Build a net, always the same."""
    torch.manual_seed(0)
    with torch.no_grad():
        return _worn(Pictures() if net == "pictures" else Rows())


def write(arguments: dict[str, str]) -> None:
    """Pickle a net and its faulty copies into folders: `sound`, and one for each fault. Runs in a child."""
    net, folder = build(arguments["net"]), Path(arguments["folder"])
    for name, plant in {
        "sound": None,
        **{name: plant for name, (_, plant) in FAULTS[arguments["net"]].items()},
    }.items():
        made = copy.deepcopy(net)
        if plant is not None:
            plant(made)
        (folder / name).mkdir(parents=True)
        torch.save(made, folder / name / "model.pth")
