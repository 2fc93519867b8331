"""Lightning checkpoints: a module from its class, its hyper-parameters and its weights.

Source: lightning/pytorch/core/saving.py, which says how `load_from_checkpoint` treats hyper-parameters.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export.format import Array, ModelSetup
from registry_export_plugins._torch.factories import build_with
from registry_export_plugins._torch.loading import at_rest
from registry_export_plugins._torch.modules import to_array
from registry_export_plugins._torch.surroundings import require
from registry_export_plugins._torch.weights import load_weights, read_checkpoint, state_of

_PARAMETERS = ("hparams", "module_arguments", "hyper_parameters")
"""Where versions of Lightning keep hyper-parameters, the oldest first."""
_NO_FORWARD = ("_forward_unimplemented", "LightningModule.forward")
"""Names of the methods that a class without a `forward` of its own inherits."""


def read_lightning(path: Path, *, allow_pickle: bool) -> Mapping[str, Any]:
    """Read a checkpoint; one whose hyper-parameters are objects is unpickled where that is allowed.

    Raises:
        SourceError: It cannot be read, or would have to be unpickled.
    """
    try:
        return _mapping(read_checkpoint(path), path)
    except SourceError as refusal:
        if not isinstance(refusal.__cause__, pickle.UnpicklingError):
            raise
        if not allow_pickle:
            raise SourceError(
                f"{refusal.message} The rule says allow_pickle: false.",
                remedy="Save hyper-parameters of plain types: self.save_hyperparameters(ignore=[...]).",
            ) from refusal
    try:
        return _mapping(torch.load(path, map_location="cpu", weights_only=False), path)
    except (ImportError, AttributeError) as error:
        raise SourceError(
            f"{path.name} needs code that is not here: {error}.",
            remedy="Log the file with the code that its hyper-parameters are of, or install it where the worker runs.",
        ) from error


def _mapping(loaded: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(loaded, Mapping):
        raise SourceError(f"{path.name} holds a {type(loaded).__name__}, and is no Lightning checkpoint.")
    return loaded


def load_lightning(path: Path, setup: ModelSetup) -> torch.nn.Module:
    """Build the module that a checkpoint was saved from, and load its weights.

    Raises:
        SourceError: No class is named, it needs other arguments, or the weights do not fit it.
    """
    factory = _factory(setup, path.name)
    checkpoint = read_lightning(path, allow_pickle=setup.allow_pickle)
    module = build_with(factory, _arguments(factory, checkpoint), setup)
    for hook, arguments in (("configure_model", ()), ("on_load_checkpoint", (checkpoint,))):
        if callable(getattr(module, hook, None)):
            getattr(module, hook)(*arguments)
    strict = getattr(module, "strict_loading", True) is not False
    load_weights(module, state_of({"state_dict": checkpoint.get("state_dict")}, path.name), path.name, strict=strict)
    if type(module).forward.__qualname__ in _NO_FORWARD and not setup.wrapper:
        raise SourceError(
            f"{setup.model_factory} has no forward(), so nothing says what to export.",
            remedy="Write forward() in the LightningModule, or name a wrapper that has one.",
        )
    return at_rest(module)


def _factory(setup: ModelSetup, name: str) -> Callable[..., Any]:
    try:
        return setup.factory(name)
    except SourceError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name in ("lightning", "pytorch_lightning"):
            require(missing.name, f"{setup.model_factory}, which {name} is of,")
        raise


def _arguments(factory: Callable[..., Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for key in _PARAMETERS:
        held = checkpoint.get(key)
        arguments.update({str(name): value for name, value in held.items()} if isinstance(held, Mapping) else {})
    # A class that takes all of them in one argument has its name saved.
    together = checkpoint.get("hparams_name")
    if together and together != "kwargs" and together in inspect.signature(factory).parameters:
        return {str(together): _in_one(arguments)}
    return arguments


def _in_one(arguments: dict[str, Any]) -> Any:
    """Let entries be read as attributes too, as Lightning's own container does."""
    try:
        from lightning.fabric.utilities.data import AttributeDict
    except ImportError:
        return arguments
    return AttributeDict(arguments)


def example_inputs(module: torch.nn.Module, interface: Interface) -> Mapping[str, Array] | None:
    """Return a LightningModule's `example_input_array` by the names of its inputs; None where it has none."""
    example = getattr(module, "example_input_array", None)
    if isinstance(example, Mapping):
        values = {str(name): value for name, value in example.items()}
    else:
        elements = example if isinstance(example, (tuple, list)) else (example,)
        names = [spec.name for spec in interface.inputs]
        values = dict(zip(names, elements, strict=False)) if len(elements) == len(names) else {}
    if not values or not all(isinstance(value, torch.Tensor) for value in values.values()):
        return None
    return {name: to_array(value) for name, value in values.items()}
