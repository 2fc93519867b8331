"""Telling PyTorch's files apart without importing PyTorch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def pytorch_file(folder: Path, flavors: Mapping[str, Mapping[str, Any]], name: str) -> Path | None:
    """Find a file of MLflow's `pytorch` flavor.

    Args:
        folder: The downloaded model folder.
        flavors: The `flavors` of its MLmodel file; empty for a plain folder.
        name: The file's name.
    """
    if flavors and "pytorch" not in flavors:
        return None
    data = str(flavors["pytorch"].get("model_data", "data")) if flavors else "."
    path = folder / data / name
    return path if path.is_file() else None


def is_torchscript(path: Path) -> bool:
    """Say whether a file is a TorchScript archive; only these keep their constants apart."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.endswith("/constants.pkl") for entry in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
