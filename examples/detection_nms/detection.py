"""Train a detector, promote it by alias, and find rectangles with an ONNX file that does its own suppression."""

import os
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import torch
from detector import CELLS, SIZE, STRIDE, Detector, with_nms
from torch import nn

import registry_export

NAME = "rectangles"


def main() -> None:
    detector = trained()
    images, boxes = pictures(64, np.random.default_rng(1))
    mlflow.set_experiment(NAME)
    # Pickled: the wrapper is put around the module itself. What it needs to be loaded again comes with it.
    logged = mlflow.pytorch.log_model(
        detector,
        name="model",
        input_example=images[:4],
        code_paths=[str(Path(__file__).with_name("detector.py"))],
        registered_model_name=NAME,
        serialization_format="pickle",
    )
    version = str(logged.registered_model_version)
    print(f"registered {NAME}, version {version}; setting the alias champion")
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version)
    for tag, line in exported(version).items():
        print(f"  {tag}: {line}")

    with registry_export.load(f"models:/{NAME}@champion", "onnx") as runner:
        found = runner.predict({"image": images})
        own = with_nms(detector)(torch.from_numpy(images))
        print(f"found {recall(found, boxes):.0%} of {sum(map(len, boxes))} rectangles, run by {runner.runtime}")
        print(f"boxes as PyTorch's: {np.allclose(found['boxes'], own['boxes'].detach(), atol=1e-3)}")
        print(f"{(found['scores'] > 0).sum()} boxes left of {len(images)} x {CELLS**2}")


def pictures(count, random):
    """Draw bright rectangles that do not touch on a noisy ground; returns images and their boxes."""
    images = random.normal(0, 0.1, (count, 1, SIZE, SIZE)).astype("float32")
    boxes = []
    for image in images:
        own = []
        for left, top in ((2, 2), (34, 2), (2, 34), (34, 34)):
            width, height = random.integers(8, 24, 2)
            x, y = left + random.integers(0, 28 - width + 1), top + random.integers(0, 28 - height + 1)
            if random.random() < 0.6:
                image[0, y : y + height, x : x + width] += 1
                own.append((x, y, x + width, y + height))
        boxes.append(np.array(own, "float32").reshape(-1, 4))
    return images, boxes


def targets(boxes):
    """What the head should say in each cell, and whether a rectangle's centre is near it."""
    wanted, positive = torch.zeros(len(boxes), CELLS, CELLS, 4), torch.zeros(len(boxes), CELLS, CELLS)
    for number, own in enumerate(boxes):
        for left, top, right, bottom in own / STRIDE:
            x, y = (left + right) / 2, (top + bottom) / 2
            wanted[number, int(y), int(x)] = torch.tensor([x % 1, y % 1, np.log(right - left), np.log(bottom - top)])
            positive[number, int(y), int(x)] = 1
    return wanted.flatten(1, 2), positive.flatten(1)


def trained() -> Detector:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of a net this small several threads make no quicker one
    random, detector = np.random.default_rng(0), Detector()
    optimizer = torch.optim.Adam(detector.parameters(), 1e-2)
    for _ in range(200):
        images, boxes = pictures(32, random)
        (wanted, positive), raw = targets(boxes), detector.raw(torch.from_numpy(images))
        place = torch.cat([torch.sigmoid(raw[..., 1:3]), raw[..., 3:]], -1)
        loss = nn.functional.binary_cross_entropy_with_logits(raw[..., 0], positive, pos_weight=torch.tensor(8.0))
        loss = loss + ((place - wanted).abs().sum(-1) * positive).sum() / positive.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return detector.eval()


def recall(found, boxes) -> float:
    """The share of rectangles that a kept box overlaps by half or more."""
    hits = 0
    for kept, own in zip(found["boxes"], boxes, strict=True):
        for box in own:
            corner, other = np.maximum(kept[:, :2], box[:2]), np.minimum(kept[:, 2:], box[2:])
            shared = np.clip(other - corner, 0, None).prod(-1)
            union = (kept[:, 2:] - kept[:, :2]).prod(-1) + (box[2:] - box[:2]).prod() - shared
            hits += bool((shared / union > 0.5).any())
    return hits / sum(map(len, boxes))


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
