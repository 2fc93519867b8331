"""Reading pickled PyTorch modules."""

from __future__ import annotations

import importlib
import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from registry_export.errors import SourceError

_PICKLE_MODULE_INFO = "pickle_module_info.txt"
_PLAIN = ("", "pickle", "cloudpickle", "mlflow.pytorch.pickle_module")
"""What all of them write, `pickle` reads; MLflow's own module would import MLflow."""


def load_module(path: Path) -> torch.nn.Module:
    """Load a pickled module onto the CPU, in evaluation mode, freed of what surrounds it for training.

    Raises:
        SourceError: The file is damaged, holds no module, or needs code that is not here.
    """
    loaded = _unpickle(path)
    if isinstance(loaded, dict):
        raise SourceError(
            f"{path.name} holds a dictionary ({', '.join(map(str, list(loaded)[:3]))}, ...), not a module.",
            remedy="Log the module itself with mlflow.pytorch.log_model; a state_dict alone has no forward().",
        )
    if not isinstance(loaded, torch.nn.Module):
        raise SourceError(f"{path.name} holds a {type(loaded).__name__}, not a torch.nn.Module.")
    module = unwrapped(loaded)
    module.eval()
    module.requires_grad_(False)
    return module


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Take a module out of DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), torch.nn.Module):
            module = module._orig_mod
        else:
            return module


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_pickle_module(path.parent))
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path.name} needs the Python module {error.name}, which is not installed here.",
            remedy="Log the model with code_paths=[...] that hold it, or install it where the worker runs.",
        ) from error
    except AttributeError as error:
        raise SourceError(
            f"{path.name} needs code that is not here: {error}.",
            remedy="Log the model with code_paths=[...] that hold its class in this version.",
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path.name} cannot be read: {error}", remedy="Log the model again.") from error


def _pickle_module(folder: Path) -> ModuleType:
    info = folder / _PICKLE_MODULE_INFO
    name = info.read_text().strip() if info.is_file() else ""
    if name in _PLAIN:
        return pickle
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(
            f"The checkpoint was pickled with {name}, which is not installed here.", remedy=f"Run `pip install {name}`."
        ) from error
