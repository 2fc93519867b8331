"""The architectures that a rule's `model_factory` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._torch.loading import at_rest


def build_module(setup: ModelSetup, needed_by: str) -> torch.nn.Module:
    """Call the factory; what it returns is put at rest.

    Raises:
        SourceError: None is named, it fails, or it returns no module.
    """
    return _module(setup.build(needed_by), setup)


def build_with(factory: Callable[..., Any], arguments: Mapping[str, Any], setup: ModelSetup) -> torch.nn.Module:
    """Call the factory with those of the arguments that it takes.

    Raises:
        SourceError: It fails, or returns no module.
    """
    parameters = inspect.signature(factory).parameters.values()
    every = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    taken = {name: value for name, value in arguments.items() if every or name in names}
    try:
        made = factory(**taken)
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        given = f" with {', '.join(taken)} from the checkpoint" if taken else ""
        raise SourceError(
            f"model_factory {setup.model_factory} fails{given}: {type(error).__name__}: {error}.",
            remedy="Save the arguments with self.save_hyperparameters(), or name a function that needs none.",
        ) from error
    return _module(made, setup)


def _module(made: Any, setup: ModelSetup) -> torch.nn.Module:
    if not isinstance(made, torch.nn.Module):
        raise SourceError(
            f"model_factory {setup.model_factory} returns a {type(made).__name__}, not a torch.nn.Module.",
            remedy="Let it return the model without its weights.",
        )
    return at_rest(made)
