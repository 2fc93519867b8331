"""PyTorch modules inside Python functions of MLflow."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.format import Array, ModelSetup
from registry_export_plugins._pyfunc.inner import find, load_function, pickled_object, predict_example
from registry_export_plugins._torch.loading import at_rest, refuse_pickle, unwrapped
from registry_export_plugins._torch.modules import to_array
from registry_export_plugins._torch.surroundings import hide_broken


@dataclass(frozen=True)
class _Inside:
    place: str
    inputs: dict[str, Array] = field(default_factory=dict)


_INSIDE: weakref.WeakKeyDictionary[torch.nn.Module, _Inside] = weakref.WeakKeyDictionary()


def module_inside(folder: Path, setup: ModelSetup) -> torch.nn.Module:
    """Load a Python function, find its module, and note what it is called with on the input example.

    Raises:
        SourceError: It cannot be loaded, or there is not exactly one module in it.
    """
    if not setup.allow_pickle and (pickled := pickled_object(folder)):
        raise refuse_pickle(pickled)
    hide_broken("torchvision")
    function = load_function(folder, "PyTorch module")
    place, found = find(function, lambda value: isinstance(value, torch.nn.Module), "PyTorch module")
    module = at_rest(found)
    inputs: dict[str, Array] = {}
    with torch.no_grad():
        hook = module.register_forward_pre_hook(lambda _, *call: _record(module, inputs, *call), with_kwargs=True)
        try:
            predict_example(function, folder)
        finally:
            hook.remove()
    _INSIDE[module] = _Inside(place, inputs)
    return at_rest(module)


def _record(
    module: torch.nn.Module, inputs: dict[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Keep the first call's tensors, by the names of the parameters of `forward`."""
    if inputs:
        return
    try:
        bound = inspect.signature(unwrapped(module).forward).bind(*args, **kwargs).arguments
    except TypeError:
        return
    tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}
    if len(tensors) == len([value for value in bound.values() if value is not None]):
        inputs.update({name: to_array(tensor) for name, tensor in tensors.items()})


def place_of(module: torch.nn.Module) -> str:
    """Return where in the Python function a module was found (`self.model`)."""
    return _INSIDE[module].place


def recorded_inputs(module: torch.nn.Module) -> Mapping[str, Array] | None:
    """Return what a module was called with on the function's input example; None where it was not called."""
    return _INSIDE[module].inputs or None


def called_with(module: torch.nn.Module, interface: Interface) -> Interface:
    """Return the inputs of a recorded call; without one the function's signature, if its inputs are the module's."""
    inputs = _INSIDE[module].inputs
    if inputs:
        return Interface(tuple(TensorSpec(name, array.dtype.name, None) for name, array in inputs.items()))
    parameters = inspect.signature(module.forward).parameters
    names = [spec.name for spec in interface.inputs]
    return Interface(interface.inputs) if names and all(name in parameters for name in names) else Interface(())
