"""MLflow's model signatures as an `Interface`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import SourceError

_COLUMN_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
    "binary": "bytes",
    "datetime": "datetime64[ns]",
}
_NUMBERS = {"boolean", "integer", "long", "float", "double"}


def read_signature(signature: Any, path: Path) -> Interface | None:
    """Read the `signature` entry of an MLmodel file.

    Args:
        signature: The entry; its `inputs` and `outputs` are JSON texts.
        path: The file, for messages.

    Returns:
        None when no inputs are declared. Column-based signatures: columns of numbers are one float32
        matrix without a name, which is what MLflow hands a framework for a DataFrame; any other set
        of columns is one input for each column.

    Raises:
        SourceError: It is no signature.
    """
    if not isinstance(signature, Mapping) or not signature.get("inputs"):
        return None
    try:
        inputs = _tensors(_fields(signature["inputs"]), "input")
        outputs = _tensors(_fields(signature.get("outputs")), "output")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SourceError(
            f"The signature in {path.name} cannot be understood: {error!r}.",
            remedy="Log the model again with a signature from mlflow.models.infer_signature.",
        ) from error
    return Interface(inputs, outputs) if inputs else None


def _fields(text: Any) -> Sequence[Mapping[str, Any]]:
    fields = json.loads(text) if isinstance(text, str) else text
    return fields if isinstance(fields, list) else []


def _tensors(fields: Sequence[Mapping[str, Any]], role: str) -> tuple[TensorSpec, ...]:
    if not fields or all(entry["type"] == "tensor" for entry in fields):
        return tuple(_tensor(entry, role) for entry in fields)
    if all(entry["type"] in _NUMBERS for entry in fields):
        return (TensorSpec("", "float32", ("batch", len(fields))),)
    return tuple(_column(entry, role) for entry in fields)


def _tensor(entry: Mapping[str, Any], role: str) -> TensorSpec:
    name = str(entry.get("name") or "")
    spec = entry["tensor-spec"]
    shape = tuple(_dimension(int(size), axis, name or role) for axis, size in enumerate(spec["shape"]))
    return TensorSpec(name, str(spec["dtype"]), shape)


def _dimension(size: int, axis: int, name: str) -> Dimension:
    if size >= 0:
        return size
    return "batch" if axis == 0 else f"{name}_{axis}"


def _column(entry: Mapping[str, Any], role: str) -> TensorSpec:
    """A column on its own; a column of lists has a dimension for each level of them."""
    name = str(entry.get("name") or "")
    element, depth = entry, 0
    while element["type"] == "array":
        element, depth = element["items"], depth + 1
    # A lone level of lists is one row's value; from two levels on, the outermost is the batch already.
    rank = max(depth, 1) if depth != 1 else 2
    shape = tuple(_dimension(-1, axis, name or role) for axis in range(rank))
    return TensorSpec(name, _COLUMN_DTYPES.get(str(element["type"]), "object"), shape)
