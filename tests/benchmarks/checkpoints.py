"""Log the models that benchmarks promote, and keep them for the naive script too.

`python -m tests.benchmarks.checkpoints TRACKING_URI FOLDER NAME COUNT`: versions of one architecture whose weights all
differ, so that nothing which was exported before is of use. Each is kept as `FOLDER/NAME-<version>/model.pth` beside
the shape of one row of its input.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from tests.models import ConvNet, seeded
from tests.support.resnet import ResNet18

ARCHITECTURES: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (ResNet18, (3, 224, 224)),
    "small": (ConvNet, (1, 28, 28)),
}


def build(name: str, version: int) -> nn.Module:
    """Build one version of an architecture, as every process would."""
    model = seeded(ARCHITECTURES[name][0]())
    generator = torch.Generator().manual_seed(version)
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, generator=generator)
    return model.eval()


def main(uri: str, folder: str, name: str, count: str) -> None:
    """Log and keep `count` versions."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    shape = ARCHITECTURES[name][1]
    for version in range(1, int(count) + 1):
        model = build(name, version)
        mlflow.pytorch.log_model(
            model,
            name="model",
            registered_model_name=name,
            input_example=torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).numpy(),
            serialization_format="pickle",
            pip_requirements=["torch"],
        )
        kept = Path(folder, f"{name}-{version}")
        kept.mkdir()
        torch.save(model, kept / "model.pth")
        (kept / "shape.json").write_text(json.dumps(shape))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
