"""Train a PyTorch classifier on handwritten digits, promote it to Staging, and predict with its exports."""

import os
import sys
import time

import mlflow
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import registry_export

NAME = "digits"


def main() -> None:
    train_x, test_x, train_y, test_y = data()
    net = trained(train_x, train_y)
    mlflow.set_experiment(NAME)
    # More than one row in the example: the batch dimension of what is logged is dynamic then.
    logged = mlflow.pytorch.log_model(net, name="model", input_example=test_x[:4].numpy(), registered_model_name=NAME)
    version = str(logged.registered_model_version)
    print(f"registered {NAME}, version {version}; promoting it to Staging")
    mlflow.MlflowClient().transition_model_version_stage(NAME, version, "Staging")
    for tag, line in exported(version).items():
        print(f"  {tag}: {line}")

    for target in ("onnx", "tflite"):
        with registry_export.load(f"models:/{NAME}/{version}", target) as runner:
            name = runner.interface.inputs[0].name
            (scores,) = runner.predict({name: test_x.numpy()}).values()
            accuracy = (scores.argmax(1) == test_y.numpy()).mean()
            print(f"{target}: accuracy {accuracy:.3f} on {len(test_y)} test images, run by {runner.runtime}")


def data() -> list[torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return train_test_split(images, torch.tensor(labels), random_state=0)


def trained(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(256, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()  # before logging: a model logged in training mode has its dropout baked in


def exported(version: str) -> dict[str, str]:
    """Wait until the export has ended, and return its tags."""
    for _ in range(600):
        tags = mlflow.MlflowClient().get_model_version(NAME, version).tags
        if tags.get("registry_export.status", "queued") not in ("queued", "running"):
            return {tag: value for tag, value in sorted(tags.items()) if tag.startswith("registry_export.")}
        time.sleep(1)
    sys.exit("No export within 10 minutes: is a worker running, with the rules of examples/registry-export.yaml?")


if __name__ == "__main__":
    if "MLFLOW_TRACKING_URI" not in os.environ:
        sys.exit("Set MLFLOW_TRACKING_URI first, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.")
    main()
