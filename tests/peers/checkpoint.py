"""The checkpoint that every peer takes: ResNet-18 of `transformers`, random weights, and inputs with its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BATCHES = (1, 2, 3)
CHECKPOINT = Path(__file__).resolve().parents[2] / "build" / "peers" / "checkpoint"
"""A folder as `save_pretrained` leaves it; `.npz` beside it is one batch of inputs."""

ANSWERS = CHECKPOINT.with_name("answers.npz")


def make() -> None:
    """Make all three."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=1000,
    )
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(CHECKPOINT)
    answers = {}
    for batch in BATCHES:
        given = torch.randn(batch, 3, 224, 224)
        with torch.no_grad():
            answers |= {f"given{batch}": given.numpy(), f"answer{batch}": model(given).logits.numpy()}
    np.savez(CHECKPOINT.with_suffix(".npz"), pixel_values=answers["given2"])
    np.savez(ANSWERS, **answers)


if __name__ == "__main__":
    make()
