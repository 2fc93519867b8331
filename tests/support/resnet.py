"""ResNet-18 as its paper has it (https://arxiv.org/abs/1512.03385, table 1), with weights drawn at random."""

from __future__ import annotations

import torch
from torch import nn

from tests.models import seeded

_WIDTHS = (64, 128, 256, 512)
_CLASSES = 1000


class Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        same = stride == 1 and before == width
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x):
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, before = [], 64
        for width in _WIDTHS:
            stride = 1 if width == before else 2
            blocks += [Block(before, width, stride), Block(width, width, 1)]
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Linear(512, _CLASSES)

    def forward(self, image):
        return self.classify(self.blocks(self.stem(image)).mean((2, 3)))


def save(arguments) -> None:
    """Log it with MLflow into a folder; a builder of `tests.support.sources`."""
    import mlflow
    import numpy as np

    model = seeded(ResNet18())
    for block in model.modules():
        if isinstance(block, nn.Conv2d):
            nn.init.kaiming_normal_(block.weight, generator=torch.Generator().manual_seed(0))
    example = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    mlflow.pytorch.save_model(
        model.eval(), arguments["folder"], input_example=example, serialization_format="pickle", pip_requirements=[]
    )
