"""How a fault is planted in a PyTorch net: small changes of a module, each a function from a module to a module.

Everything here is pickled with the mutated net, and loaded by the real converters: classes, and no lambdas in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

Plant = Callable[[nn.Module], nn.Module]
Tensor = torch.Tensor


@dataclass(frozen=True)
class Fault:
    """One thing that is broken: its kind in the table, what it is in words, and how it is planted."""

    kind: str
    name: str
    plant: Plant


@dataclass(frozen=True)
class Net:
    """A source: how it is built, an example of its inputs, and the faults to plant.

    Attributes:
        build: Builds the module, always the same.
        inputs: The example, by the names of `forward`.
        faults: What to plant.
        dynamic: Input -> axis -> name of its dynamic dimensions beside the batch, which is axis 0 of all inputs.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, np.ndarray]
    faults: tuple[Fault, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Draw standard normal floats."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def edit(path: str, **attributes: Any) -> Plant:
    """Change attributes of a part (`eps`, `padding`, ...)."""

    def plant(net: nn.Module) -> nn.Module:
        part = net.get_submodule(path)
        for name, value in attributes.items():
            assert hasattr(part, name), f"{path} has no {name}"
            setattr(part, name, value)
        return net

    return plant


def tensor(path: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """Change a weight, a bias or a statistic."""

    def plant(net: nn.Module) -> nn.Module:
        owner, _, name = path.rpartition(".")
        held = getattr(net.get_submodule(owner), name)
        with torch.no_grad():
            held.copy_(change(held.detach().clone()))
        return net

    return plant


def every(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change all weights."""

    def plant(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            for held in net.parameters():
                held.copy_(change(held.detach().clone()))
        return net

    return plant


def put(path: str, part: nn.Module) -> Plant:
    """Put another module in a part's place."""

    def plant(net: nn.Module) -> nn.Module:
        owner, _, name = path.rpartition(".")
        assert hasattr(net.get_submodule(owner), name), path
        setattr(net.get_submodule(owner), name, part)
        return net

    return plant


def before(path: str, part: nn.Module) -> Plant:
    """Let a module change what goes into a part."""
    return lambda net: put(path, nn.Sequential(part, net.get_submodule(path)))(net)


def after(path: str, part: nn.Module) -> Plant:
    """Let a module change what comes out of a part."""
    return lambda net: put(path, nn.Sequential(net.get_submodule(path), part))(net)


def twice(path: str) -> Plant:
    """Apply a part twice."""
    return lambda net: after(path, net.get_submodule(path))(net)


def both(*plants: Plant) -> Plant:
    """Make several changes."""

    def plant(net: nn.Module) -> nn.Module:
        for one in plants:
            net = one(net)
        return net

    return plant


def permuted(path: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """Change the order of a recurrent layer's gates: all of its weights, along their first axis."""

    def plant(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            for held in net.get_submodule(path).parameters():
                held.copy_(change(held.detach().clone()))
        return net

    return plant


def half(held: Tensor) -> Tensor:
    """Round to fp16."""
    return held.half().to(held.dtype)


def brain(held: Tensor) -> Tensor:
    """Round to bf16."""
    return held.bfloat16().to(held.dtype)


def one_weight(held: Tensor) -> Tensor:
    """Make one weight, of middling size, a tenth larger."""
    flat = held.flatten()
    flat[flat.abs().argsort()[flat.numel() // 2]] *= 1.1
    return flat.view_as(held)


class Apply(nn.Module):
    """A module of one of the functions below, by name: what is pickled holds no function."""

    def __init__(self, function: str, *values: Any) -> None:
        super().__init__()
        self.function, self.values = function, values

    def forward(self, x):
        return _FUNCTIONS[self.function](x, *self.values)


def _moved(x: Tensor, axis: int, by: int) -> Tensor:
    """Shift along an axis and put zeros where nothing is: no size is asked for, so that it may stay dynamic."""
    x = x.transpose(0, axis)
    x = torch.cat([0 * x[:by], x[:-by]]) if by > 0 else torch.cat([x[-by:], 0 * x[:-by]])
    return x.transpose(0, axis)


def _without_last(x: Tensor, axis: int) -> Tensor:
    x = x.transpose(0, axis)
    return torch.cat([x[:-1], 0 * x[-1:]]).transpose(0, axis)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "nothing": lambda x: x,
    "first row": lambda x: x[:1] + 0 * x,
    "first two rows": lambda x: torch.cat([x[:2], 0 * x[2:]]),
    "half": half,
    "bfloat": brain,
    "scale": lambda x, factor: x * factor,
    "shift": lambda x, by: x + by,
    "clamp": lambda x, low, high: torch.clamp(x, low, high),
    "saturate": lambda x, steps: torch.clamp(torch.round(x * steps), -128, 127) / steps,
    "swap": lambda x, a, b: x.transpose(a, b),
    "flip": lambda x, axis: torch.flip(x, (axis,)),
    "without last": _without_last,
    "moved": _moved,
    "pad": lambda x, sizes, mode: nn.functional.pad(x, sizes, mode=mode),
    "crop": lambda x, sizes: nn.functional.pad(x, sizes),
    "over itself": lambda x: x * (x / x),
    "by logarithm": lambda x: torch.exp(torch.log(x.abs())) * (x / x.abs()),
    "softmax": lambda x, axis: torch.softmax(x, axis),
    "log softmax": lambda x, axis: torch.log_softmax(x, axis),
    "naive softmax": lambda x, axis: torch.exp(x) / torch.exp(x).sum(axis, keepdim=True),
    "normalize": lambda x, eps: nn.functional.layer_norm(x, x.shape[-1:], eps=eps),
    "keras hard sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "shuffle": lambda x, groups: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2),
    "channels last": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "ids": lambda x, low, high: torch.clamp(x, low, high),
    "wrap": lambda x, size: torch.remainder(x, size),
}
