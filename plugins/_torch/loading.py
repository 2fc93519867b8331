"""Reading pickled PyTorch modules."""

from __future__ import annotations

import importlib
import pickle
import sysconfig
import tarfile
import traceback
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from registry_export.errors import SourceError
from registry_export_plugins._torch.archives import WEIGHTS_KEYS, content_of
from registry_export_plugins._torch.surroundings import hide_broken

_PICKLE_MODULE_INFO = "pickle_module_info.txt"
_PLAIN = ("", "pickle", "cloudpickle", "mlflow.pytorch.pickle_module")
"""What all of them write, `pickle` reads; MLflow's own module would import MLflow."""


def refuse_pickle(name: str) -> SourceError:
    """Return the refusal of a file whose loading runs code, where the rule forbids that."""
    return SourceError(
        f"{name} is pickled, so loading it runs code, and the rule says allow_pickle: false.",
        remedy="Log the model as a torch.export program (MLflow's default), as safetensors or as a state dict.",
    )


def refuse_damaged(path: Path) -> None:
    """Say what is wrong with a file that is empty, was cut short, or is none of PyTorch's.

    Raises:
        SourceError: It is.
    """
    if path.stat().st_size == 0:
        raise SourceError(f"{path.name} is empty.", remedy="Log the model again.")
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start.startswith((b"PK\x03\x04", b"\x80")) and not tarfile.is_tarfile(path):
        raise SourceError(
            f"{path.name} cannot be read: it begins with {start!r}, as no file of PyTorch's does.",
            remedy="Log what torch.save wrote.",
        )
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise SourceError(
            f"{path.name} cannot be read: it begins as a zip archive, and the end is not there.",
            remedy="Save and log the model again.",
        )


def load_module(path: Path) -> torch.nn.Module:
    """Load a pickled module onto the CPU, in evaluation mode, freed of what surrounds it for training.

    Raises:
        SourceError: The file is damaged, holds no module, or needs code that is not here.
    """
    if any(name.startswith("transformers") for name in content_of(path).names):
        hide_broken("torchvision")
    loaded = _unpickle(path)
    if isinstance(loaded, dict):
        held = (loaded.get(key) for key in WEIGHTS_KEYS)
        loaded = next((value for value in held if isinstance(value, torch.nn.Module)), loaded)
    if isinstance(loaded, dict):
        raise SourceError(
            f"{path.name} holds a dictionary ({', '.join(map(str, list(loaded)[:3]))}, ...), not a module.",
            remedy="Log the module itself with mlflow.pytorch.log_model; a state_dict alone has no forward().",
        )
    if not isinstance(loaded, torch.nn.Module):
        raise SourceError(
            f"{path.name} holds a value of class {type(loaded).__name__}, not a torch.nn.Module.",
            remedy="Save the module, or its state_dict() and name a model_factory.",
        )
    return at_rest(loaded)


def at_rest(module: torch.nn.Module) -> torch.nn.Module:
    """Take off what surrounds a module for training, put it in evaluation mode and stop its gradients."""
    module = unwrapped(module)
    module.eval()
    module.requires_grad_(False)
    for part in module.modules():
        if hasattr(type(part), "_jit_is_scripting"):
            # A LightningModule raises where its trainer is asked for; tracers ask for every attribute.
            part._jit_is_scripting = True
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
        # Mapped, weights are read when they are used, once for all processes that have the file open.
        return torch.load(
            path,
            map_location="cpu",
            weights_only=False,
            pickle_module=_pickle_module(path.parent),
            mmap=zipfile.is_zipfile(path),
        )
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path.name} needs the Python module {error.name}, which is not installed here.",
            remedy="Log the model with code_paths=[...] that hold it, put it beside registry-export.yaml, or "
            "install it where the worker runs.",
        ) from error
    except Exception as error:
        refusal = _refusal(path, error)
        if refusal is None:
            raise
        raise refusal from error


def _refusal(path: Path, error: Exception) -> SourceError | None:
    """Say what went wrong in reading a file; None where nothing is known of it."""
    said = str(error).split(". ")[0].rstrip(".")
    if "inline_container" in said:  # PyTorch's reader of zip files tells the line of its own source
        said = "it is a zip file, and damaged or none that torch.save wrote"
    if place := _place_in_other_code(error):
        return SourceError(
            f"{path.name} runs its author's code when loaded, which raised {type(error).__name__}: {said} ({place}).",
            remedy="Correct that code, or log the model with code_paths=[...] that hold it as it was then.",
        )
    if isinstance(error, AttributeError):
        return SourceError(
            f"{path.name} needs code that is not here: {error}.",
            remedy="Log the model with code_paths=[...] that hold its class in this version.",
        )
    if isinstance(error, (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, zipfile.BadZipFile)):
        return SourceError(f"{path.name} cannot be read: {said}.", remedy="Log the model again.")
    return None


def _place_in_other_code(error: Exception) -> str:
    """Return file, line and function of the innermost code that is neither ours nor Python's nor installed."""
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    ours = str(Path(__file__).parents[1])
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((*installed, ours, "<frozen ")):
            place = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return place


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
