"""Telling which framework is inside a Python function of MLflow, without loading it.

Source: mlflow/pyfunc/model.py, which says where the flavor keeps its parts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from registry_export.errors import UnsupportedSourceError
from registry_export.parsing import MOST_CODE_BYTES, PARSER, read_bounded
from registry_export_plugins._torch.archives import Content, content_of
from registry_export_plugins._torch.files import SUFFIXES
from registry_export_plugins._torch.pickles import outline

TORCH = "torch"
KERAS = "keras"
_LOADERS = ("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model")
"""Of a pickled object, and of one whose code was logged instead."""
_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_PACKAGES = {"torch": TORCH, "lightning": TORCH, "transformers": TORCH, "keras": KERAS, "tensorflow": KERAS}
_REQUIREMENT = re.compile(r"^\s*([A-Za-z_]+)", re.MULTILINE)


def framework_inside(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> str:
    """Return `torch` or `keras`, or an empty string for what is no Python function with a class of the author's.

    What tells is, in this order: the files among its artifacts, what its pickle or its code imports, and
    the packages that it was logged with.

    Args:
        folder: The downloaded model folder.
        flavors: The `flavors` of its MLmodel file.

    Raises:
        UnsupportedSourceError: It is one, and neither framework is in it.
    """
    flavor = flavors.get("python_function", {})
    if set(flavors) != {"python_function"} or flavor.get("loader_module") not in _LOADERS:
        return ""
    evidence = (_of_artifacts(folder, flavor), _of_code(folder, flavor), _of_requirements(folder))
    found = next((frameworks for frameworks in evidence if frameworks), set())
    if not found:
        raise UnsupportedSourceError(
            "The model is a Python function of MLflow (pyfunc), with neither a PyTorch nor a Keras model in it.",
            remedy="Log the model inside with the flavor of its framework (mlflow.pytorch.log_model, ...).",
        )
    return TORCH if TORCH in found else KERAS


def _of_artifacts(folder: Path, flavor: Mapping[str, Any]) -> set[str]:
    found = set()
    for path in _files(artifact_paths(folder, flavor).values()):
        if path.suffix in _KERAS_SUFFIXES or path.name == "saved_model.pb":
            found.add(KERAS)
        elif path.suffix in SUFFIXES and content_of(path).content is not Content.OTHER:
            found.add(TORCH)
    return found


def artifact_paths(folder: Path, flavor: Mapping[str, Any]) -> dict[str, Path]:
    """Return the artifacts that the function was logged with, by name; none outside of the model's folder."""
    artifacts = flavor.get("artifacts") or {}
    paths = {str(name): (folder / str(entry["path"])).resolve() for name, entry in artifacts.items() if "path" in entry}
    return {name: path for name, path in paths.items() if path.is_relative_to(folder.resolve())}


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        yield from (below for below in path.rglob("*") if below.is_file()) if path.is_dir() else (path,)


def _of_code(folder: Path, flavor: Mapping[str, Any]) -> set[str]:
    code = flavor.get("model_code_path")
    names: set[str] = set()
    if code:
        path = folder / Path(str(code)).name
        names = _imported(read_bounded(path, MOST_CODE_BYTES)) if path.is_file() else set()
    elif flavor.get("python_model") and not flavor.get("compression"):
        path = (folder / str(flavor["python_model"])).resolve()
        names = _of_pickle(path) if path.is_relative_to(folder.resolve()) else set()
    return {_PACKAGES[name] for name in names if name in _PACKAGES}


def _imported(code: bytes) -> set[str]:
    try:
        with PARSER:
            nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return set()
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {module.partition(".")[0] for module in modules}


def _of_pickle(path: Path) -> set[str]:
    try:
        if not path.is_file():  # a device has no end
            return set()
        with path.open("rb") as stream:
            found = outline(stream)
    except (OSError, ValueError):
        return set()
    return {name.partition(".")[0] for name in found.names}


def _of_requirements(folder: Path) -> set[str]:
    path = folder / "requirements.txt"
    text = read_bounded(path, MOST_CODE_BYTES).decode(errors="replace") if path.is_file() else ""
    return {_PACKAGES[name.lower()] for name in _REQUIREMENT.findall(text) if name.lower() in _PACKAGES}
