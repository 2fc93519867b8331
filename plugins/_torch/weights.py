"""Weights without an architecture: reading them, and putting them into a module."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry_export.errors import SourceError
from registry_export_plugins._torch.archives import WEIGHTS_KEYS
from registry_export_plugins._torch.files import INDEX_SUFFIXES, shards_of
from registry_export_plugins._torch.parametrizations import settle

State = Mapping[str, Any]
_MOST_NAMED = 6


def read_checkpoint(path: Path) -> Any:
    """Read a file of tensors and plain data onto the CPU; no code in it is run.

    Raises:
        SourceError: It is damaged, or holds objects of classes.
    """
    try:
        with torch.serialization.safe_globals(_plain_data()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path.name} holds more than tensors and plain data, and is not unpickled: {_refused(error)}.",
            remedy="Save the state dict alone: torch.save(model.state_dict(), path).",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path.name} cannot be read: {error}", remedy="Log the file again.") from error


def _refused(error: Exception) -> str:
    """Name the class that torch.load refused, out of its page of advice."""
    found = re.search(r"(?:Unsupported|unsupported) (?:global: )?(?:GLOBAL|class) ([\w.]+)", str(error))
    return f"it refers to {found[1]}" if found else str(error).splitlines()[0]


def _plain_data() -> list[Any]:
    """Return what training scripts put beside the weights: NumPy's numbers, arguments, paths. None of it runs code."""
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFD"}
    array = np.zeros(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    return [array, scalar, np.ndarray, np.dtype, *dtypes, argparse.Namespace, pathlib.PosixPath, defaultdict, Counter]


def read_state(path: Path) -> State:
    """Read a state dict from a file, a training checkpoint or the shards that an index names.

    Raises:
        SourceError: It holds none, or a shard is missing.
    """
    if path.name.endswith(INDEX_SUFFIXES):
        return _joined(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return state_of(read_checkpoint(path), path.name)


def state_of(loaded: Any, name: str) -> State:
    """Take the state dict out of what a file holds.

    Raises:
        SourceError: There is none in it.
    """
    if isinstance(loaded, Mapping):
        for key in WEIGHTS_KEYS:
            held = loaded.get(key)
            if isinstance(held, Mapping) and _has_tensors(held):
                return dict(held)
        if _has_tensors(loaded):
            return dict(loaded)
    keys = f" with {', '.join(map(str, list(loaded)[:3]))}" if isinstance(loaded, Mapping) else ""
    raise SourceError(
        f"{name} holds a {type(loaded).__name__}{keys}, and no state dict.",
        remedy=f"Save a state dict, or a dictionary that has one under {' or '.join(WEIGHTS_KEYS[:2])}.",
    )


def sets_of_weights(path: Path) -> tuple[str, ...]:
    """Return the keys under which a training checkpoint has named tensors; those that are loaded come first."""
    loaded = None if path.name.endswith(INDEX_SUFFIXES) else read_checkpoint(path)
    if not isinstance(loaded, Mapping):
        return ()
    held = [str(key) for key, value in loaded.items() if isinstance(value, Mapping) and _has_tensors(value)]
    known = [key for key in WEIGHTS_KEYS if key in held]
    return (*known, *(key for key in held if key not in known)) if known else ()


def facts_of(path: Path) -> Mapping[str, str]:
    """Return what a file of weights says beside them: a training checkpoint's plain values, safetensors' metadata."""
    if path.name.endswith(INDEX_SUFFIXES):
        return {"shards": ", ".join(shards_of(path))}
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    loaded = read_checkpoint(path)
    return plain_facts(loaded) if isinstance(loaded, Mapping) else {}


def plain_facts(loaded: Mapping[Any, Any]) -> Mapping[str, str]:
    """Return the entries of a checkpoint that are text or numbers."""
    return {str(key): str(value) for key, value in loaded.items() if isinstance(value, str | int | float)}


def _has_tensors(held: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in held.values())


def _joined(index: Path) -> State:
    names = shards_of(index)
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent or not names:
        raise SourceError(
            f"{index.name} names {len(names)} shards, of which {_listed(absent) or 'none'} cannot be found.",
            remedy="Log all of them with their index.",
        )
    outside = [name for name in names if not (index.parent / name).resolve().is_relative_to(index.parent.resolve())]
    if outside:
        raise SourceError(f"{index.name} names a shard outside of its folder: {outside[0]}.")
    joined: dict[str, Any] = {}
    for name in names:
        joined.update(read_state(index.parent / name))
    return joined


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, OSError) as error:
        raise SourceError(
            f"{path.name} cannot be read as safetensors: {str(error).rstrip('.')}.", remedy="Log the file again."
        ) from error


def load_weights(module: torch.nn.Module, state: State, name: str, *, strict: bool = True) -> None:
    """Put a state dict into a module, and computed weights in place of their parametrizations.

    Names may carry the prefixes of DataParallel (`module.`) and torch.compile (`_orig_mod.`), or one
    of their own that all of them share (the attribute of the LightningModule that held the module).

    Args:
        module: Takes the weights, in its own dtypes.
        state: Tensors by name.
        name: The file, for messages.
        strict: Whether names that are missing or unexpected are errors.

    Raises:
        SourceError: Names or shapes do not fit; says which.
    """
    own = module.state_dict()
    fitting = _renamed(state, own)
    missing = [key for key in own if key not in fitting and not _tied(key, own, fitting)]
    unexpected = [key for key in fitting if key not in own]
    shapes = [_mismatch(key, own[key], fitting[key]) for key in own if key in fitting]
    wrong = [shape for shape in shapes if shape]
    if wrong or (strict and (missing or unexpected)):
        raise SourceError(
            f"{name} does not fit the model of class {type(module).__qualname__}: "
            f"{'; '.join(_differences(missing, unexpected, wrong))}.",
            remedy="Let model_factory return the architecture that was trained, with the same arguments.",
        )
    try:
        module.load_state_dict(fitting, strict=False)
    except (RuntimeError, AttributeError, TypeError, KeyError) as error:
        raise SourceError(f"{name} does not fit the model: {error}") from error
    settle(module)


def _differences(missing: list[str], unexpected: list[str], wrong: list[str]) -> list[str]:
    named = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
    return [f"{what}: {_listed(keys)}" for what, keys in named if keys]


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return ", ".join(every[:_MOST_NAMED]) + more


def _renamed(state: State, own: State) -> dict[str, Any]:
    """Take prefixes off the names, as far as that makes them the module's."""
    plain = {_without_wrappers(key): value for key, value in state.items()}
    candidates = [dict(state), plain, {key.replace("_orig_mod.", ""): v for key, v in plain.items()}]
    stem = next(iter(plain), "").partition(".")[0] + "."
    if plain and all(key.startswith(stem) for key in plain):
        candidates.append({key.removeprefix(stem): value for key, value in plain.items()})
    return max(candidates, key=lambda renamed: len(renamed.keys() & own.keys()))  # the first of equals


def _without_wrappers(key: str) -> str:
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key


def _tied(key: str, own: State, given: Mapping[str, Any]) -> bool:
    """Say whether a tensor shares its memory with one that is given: files keep only one of the two."""
    tensor = own[key]
    if not isinstance(tensor, torch.Tensor) or not tensor.numel():
        return False
    place = (tensor.data_ptr(), tensor.shape)
    others = ((name, other) for name, other in own.items() if name in given and isinstance(other, torch.Tensor))
    return any((other.data_ptr(), other.shape) == place for _, other in others)


def _mismatch(key: str, own: Any, given: Any) -> str:
    if not isinstance(own, torch.Tensor) or not isinstance(given, torch.Tensor):
        return ""
    if isinstance(own, torch.nn.parameter.UninitializedTensorMixin) or own.shape == given.shape:
        return ""
    return f"{key} {list(given.shape)} for {list(own.shape)}"
