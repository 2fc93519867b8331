"""What a downloaded model folder says of itself: flavors, signature, input example.

Only YAML and JSON are read here; nothing of the checkpoint is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.parsing import json_of, read_bounded, yaml_of
from registry_export.registry.signature import read_signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Example = tuple[tuple[str, NDArray[np.generic]], ...]

_OF_THE_LOGGING = frozenset({"artifact_path", "model_id", "model_uuid", "run_id", "utc_time_created"})
"""Entries of an MLmodel file that say where and when the model was logged, and nothing of the model."""

_MOST_MLMODEL_BYTES = 4 * 1024**2
_MOST_EXAMPLE_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class ModelFiles:
    """A model folder's own account.

    Attributes:
        flavors: The `flavors` of its MLmodel file; empty for plain files.
        interface: The signature, or None. A size of -1 on axis 0 stands as `batch`, on other axes as
            `<input>_<axis>`. A table of numbers is one float32 matrix without a name.
        example: The input example as (name, array) in order, a lone array without a name; or None.
        code_paths: Folders to put on `sys.path` before the checkpoint is loaded.
        signature: The MLmodel's `signature` entry as it stands, or None.
        notes: Sentences about what could not be used.
        mlmodel_sha256: Digest of what its MLmodel says of the model, in hex; where and when that was logged is left
            out. Empty for plain files.
    """

    flavors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    interface: Interface | None = None
    example: Example | None = None
    code_paths: tuple[Path, ...] = ()
    signature: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    mlmodel_sha256: str = ""


def read_model(folder: Path) -> ModelFiles:
    """Read a model folder's MLmodel, signature and input example.

    Args:
        folder: As `Registry.download` left it.

    Raises:
        SourceError: The MLmodel file cannot be understood.
    """
    path = folder / "MLmodel"
    if not path.is_file():
        return ModelFiles()
    document = _document(path)
    flavors = _flavors(document, path)
    interface = read_signature(document.get("signature"), path)
    notes: list[str] = []
    example = _example(folder, document.get("saved_input_example_info"), interface, notes)
    signature = document.get("signature") if interface is not None else None
    paths = _code_paths(folder, flavors)
    return ModelFiles(flavors, interface, example, paths, signature, tuple(notes), _digest(document))


def _digest(document: Mapping[str, Any]) -> str:
    said = {str(name): value for name, value in document.items() if name not in _OF_THE_LOGGING}
    try:
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    except (TypeError, ValueError, RecursionError) as error:
        raise SourceError(
            f"The model's MLmodel file holds keys that are no text: {error}.", remedy="Log the model again."
        ) from error


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml_of(read_bounded(path, _MOST_MLMODEL_BYTES).decode())
    except ValueError as error:
        raise SourceError(f"The model's MLmodel file is not YAML: {error}", remedy="Log the model again.") from error
    if not isinstance(document, Mapping):
        raise SourceError("The model's MLmodel file holds no mapping.", remedy="Log the model again.")
    return document


def _flavors(document: Mapping[str, Any], path: Path) -> dict[str, Mapping[str, Any]]:
    flavors = document.get("flavors") or {}
    if not isinstance(flavors, Mapping) or not all(isinstance(entry, Mapping) for entry in flavors.values()):
        raise SourceError(f"`flavors` in {path.name} is not a mapping of mappings.", remedy="Log the model again.")
    return {str(name): entry for name, entry in flavors.items()}


def _code_paths(folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> tuple[Path, ...]:
    names = {str(entry["code"]): None for entry in flavors.values() if entry.get("code")}
    paths = (_inside(folder, name) for name in names)
    return tuple(path for path in paths if path is not None and path.is_dir())


def _inside(folder: Path, name: str) -> Path | None:
    """Resolve a path that an MLmodel file names; None when it leaves the folder."""
    try:
        path = (folder / name).resolve()
        path.is_dir()
    except (OSError, ValueError):  # no name of a file at all
        return None
    return path if path.is_relative_to(folder.resolve()) else None


def _example(folder: Path, info: Any, interface: Interface | None, notes: list[str]) -> Example | None:
    if not isinstance(info, Mapping):
        return None
    path = _inside(folder, str(info.get("artifact_path") or "input_example.json"))
    if path is None or not path.is_file():
        notes.append("The model names an input example, but its file is missing.")
        return None
    try:
        content = _decoded(read_bounded(path, _MOST_EXAMPLE_BYTES))
    except (OSError, ValueError) as error:
        notes.append(f"The input example cannot be read: {error}.")
        return None
    if info.get("params") and isinstance(content, Mapping):
        content = content.get("inputs")
    arrays = None if content is None else _arrays(content, str(info.get("type") or "json_object"), interface)
    if arrays is None:
        notes.append("The input example holds something else than arrays of numbers, and is not used.")
    return arrays


def _decoded(text: bytes) -> Any:
    """Decode JSON: pictures as text are megabytes. Only Python's own decoder takes the NaN that Python writes."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return json_of(text)


def _arrays(content: Any, kind: str, interface: Interface | None) -> Example | None:
    """Turn an example's JSON into arrays: one for a list or a table, one for each entry of a mapping."""
    if kind.startswith("sparse_matrix"):
        return None
    if kind == "dataframe" and isinstance(content, Mapping):
        return _table(content, interface)
    if kind == "ndarray" and isinstance(content, Mapping) and "inputs" in content:
        content = content["inputs"]
    named = content if isinstance(content, Mapping) else {"": content}
    arrays = tuple((str(name), _array(value, _spec(interface, str(name)))) for name, value in named.items())
    return tuple((name, array) for name, array in arrays if array is not None) if _complete(arrays) else None


def _table(content: Mapping[str, Any], interface: Interface | None) -> Example | None:
    """A DataFrame in `split` (or `values`) form: one matrix, or one array for each named input."""
    rows = content.get("data")
    columns = content.get("columns")
    specs = interface.inputs if interface else ()
    names = [spec.name for spec in specs]
    if isinstance(columns, list) and len(specs) > 1 and set(names) <= set(columns) and isinstance(rows, list):
        picked = [(spec, [row[columns.index(spec.name)] for row in rows]) for spec in specs]
        arrays = tuple((spec.name, _array(values, spec)) for spec, values in picked)
        return tuple((name, array) for name, array in arrays if array is not None) if _complete(arrays) else None
    spec = specs[0] if len(specs) == 1 else None
    matrix = _array(rows, spec)
    return None if matrix is None else (("", matrix),)


def _complete(arrays: tuple[tuple[str, Any], ...]) -> bool:
    return bool(arrays) and all(array is not None for _, array in arrays)


def _spec(interface: Interface | None, name: str) -> TensorSpec | None:
    if interface is None:
        return None
    by_name = {spec.name: spec for spec in interface.inputs}
    return by_name.get(name) or (interface.inputs[0] if len(interface.inputs) == 1 else None)


def _array(value: Any, spec: TensorSpec | None) -> NDArray[np.generic] | None:
    """Make an array with the declared dtype; without one, numbers with a fraction become float32."""
    import numpy as np

    try:
        dtype = None if spec is None else np.dtype(spec.dtype)
    except TypeError:  # bfloat16 and the like: JSON holds their values as plain floats
        dtype = np.dtype(np.float32)
    try:
        # None is how MLflow writes the NaN of a table; only a float dtype can take it.
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype=dtype)
        if array.dtype == object:
            array = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        return None
    if array.dtype.kind not in "biufc":
        return None
    return array.astype(np.float32) if dtype is None and array.dtype == np.float64 else array
