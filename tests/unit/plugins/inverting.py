"""A custom operator of PyTorch, a net that calls it, and its translation to an operator of onnxruntime-extensions."""

from __future__ import annotations

import torch
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset


@torch.library.custom_op("inverting::inverse", mutates_args=())
def inverse(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.inv(x)


@inverse.register_fake
def _(x):
    return torch.empty_like(x)


_SCHEMA = OpSchema(
    "Inverse",
    "ai.onnx.contrib",
    1,
    inputs=[OpSchema.FormalParameter("x", "T")],
    outputs=[OpSchema.FormalParameter("y", "T")],
    type_constraints=[("T", ["tensor(float)"], "")],
)


def to_onnx(x):
    return Op(Opset("ai.onnx.contrib", 1), "Inverse", _SCHEMA)(x)


TABLE = {torch.ops.inverting.inverse.default: to_onnx}
NOT_A_TABLE = [to_onnx]


class Inversion(torch.nn.Module):
    def forward(self, x):
        return x @ torch.ops.inverting.inverse(x.T @ x + 3 * torch.eye(3))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(torch.nn.Linear(3, 3), Inversion())

    def forward(self, x):
        return self.blocks(x) + 1
