"""Export a digits classifier as it is, in halves, in int8 and pruned, and name the variants that nothing beats."""

import os
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from registry_export.pareto import compared
from registry_export.report import from_json, size_text

NAME = "digits-variants"
SAMPLES = Path(__file__).with_name("samples.npz")


def main() -> None:
    train_x, test_x, train_y, test_y = data()
    net = trained(train_x, train_y)
    # What every variant is verified, calibrated and evaluated on; the array `labels` is what makes the accuracy.
    np.savez(SAMPLES, image=test_x.numpy(), labels=test_y.numpy())
    mlflow.set_experiment(NAME)
    logged = mlflow.pytorch.log_model(net, name="model", input_example=test_x[:4].numpy(), registered_model_name=NAME)
    version = str(logged.registered_model_version)
    print(f"registered {NAME}, version {version}; setting the alias champion")
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version)
    print(f"registry_export.status: {exported(version)}\n")
    print_table(version)


def data() -> list[torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return train_test_split(images, torch.tensor(labels), random_state=0)


def trained(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


def exported(version: str) -> str:
    """Wait until the export has ended, and return its status."""
    for _ in range(600):
        status = mlflow.MlflowClient().get_model_version(NAME, version).tags.get("registry_export.status", "queued")
        if status not in ("queued", "running"):
            return status
        time.sleep(1)
    sys.exit("No export within 10 minutes: is a worker running, with the rules of examples/registry-export.yaml?")


def print_table(version: str) -> None:
    """Print every variant's size, time and accuracy, and whether another one beats it in all of them."""
    report = from_json(
        Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/{version}/exports/report.json")).read_bytes()
    )
    found = compared(report)
    print(f"{'variant':24}{'status':12}{'size':>10}{'ms':>9}{'accuracy':>10}{'zeros':>8}")
    source = report.source
    print(f"{'(the source)':36}{size_text(source.checkpoint_bytes):>10}", end="")
    print(f"{source.latency.median_ms:9.3f}{source.evaluation['accuracy']:10.4f}")
    for result in report.targets:
        print(f"{result.variant:24}{result.status:12}{size_text(result.size_bytes):>10}", end="")
        print(f"{result.verification.latency_ms:9.3f}{result.evaluation['accuracy']:10.4f}", end="")
        print(f"{'' if result.sparsity is None else f'{result.sparsity:.0%}':>8}", end="")
        print("  on the front" if result.variant in found.front else "")


if __name__ == "__main__":
    if "MLFLOW_TRACKING_URI" not in os.environ:
        sys.exit("Set MLFLOW_TRACKING_URI first, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.")
    main()
