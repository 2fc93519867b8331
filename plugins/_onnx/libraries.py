"""Custom operators: the translation table for PyTorch's exporter, and the library that ONNX Runtime runs them with.

The library is laid beside the model's file, and the file's metadata say its name, so that the folder is all that is
needed to run the model.

Source: https://onnxruntime.ai/docs/reference/operators/add-custom-op.html
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from registry_export.errors import ConversionError, SourceError
from registry_export_plugins._onnx.opsets import first_line

METADATA_KEY = "registry_export.custom_ops_library"
"""Key of the file's `metadata_props`; the value is the name of a file in the same folder."""


def translation_table(value: object) -> dict[Any, Any]:
    """Import the table of the option `custom_translation_table`.

    Args:
        value: `package.module:TABLE`, or None.

    Returns:
        From PyTorch's operators to functions that write ONNX's, as `torch.onnx.export` takes it.

    Raises:
        ConversionError: It cannot be imported, or is no such mapping.
    """
    if not value:
        return {}
    table = _imported("custom_translation_table", str(value))
    if not isinstance(table, Mapping) or not all(callable(function) for function in table.values()):
        raise ConversionError(
            f"custom_translation_table {value} is a {type(table).__name__}, not a mapping from operators to functions.",
            remedy="See custom_translation_table of torch.onnx.export.",
        )
    return dict(table)


def library_file(value: object) -> Path | None:
    """Find the library of the option `custom_ops_library`.

    Args:
        value: A path, absolute or relative to a folder of the model's code, or `package.module:callable`
            for a function without arguments that returns the path; None for no library.

    Raises:
        ConversionError: There is no such file.
    """
    if not value:
        return None
    text = str(value)
    if ":" in text and not Path(text).exists():
        found = _imported("custom_ops_library", text)
        places = [Path(str(found() if callable(found) else found))]
    else:
        places = [Path(folder, text) for folder in ("", *sys.path)]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise ConversionError(
        f"custom_ops_library {text} is not there.",
        remedy="Give an absolute path, a path inside the model's code_paths, or package.module:callable.",
    )


def _imported(option: str, value: str) -> Any:
    module, _, name = value.partition(":")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module is the author's: importing it raises whatever it likes
        raise ConversionError(
            f"{option} {value} cannot be imported: {first_line(error)}.",
            remedy="Write package.module:NAME, and log the module with the model's code_paths or install it.",
        ) from error
    return found


def name_library(model: ModelProto, library: Path) -> None:
    """Write into a model's metadata which library it needs."""
    onnx.helper.set_model_props(
        model, {prop.key: prop.value for prop in model.metadata_props} | {METADATA_KEY: library.name}
    )


def lay_library(library: Path, output: Path) -> None:
    """Copy a library beside a model's file, whose metadata name it.

    Raises:
        ConversionError: The model's own files have that name.
    """
    target = output.parent / library.name
    if target.name in (output.name, f"{output.name}.data"):
        raise ConversionError(f"The custom operators' library is called {library.name}, as one of the model's files.")
    shutil.copyfile(library, target)


_LOADED: dict[str, tuple[str, ctypes.CDLL]] = {}
"""Digest of a library -> where this process loaded it from, and what keeps it loaded.

ONNX Runtime unloads a library with the last session that uses it, and to load one again can kill the process.
"""


def place_to_load(library: Path) -> str:
    """Load a library for good, and return the path to register it by: that of the first copy with the same content.

    Raises:
        OSError: It cannot be loaded.
    """
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    if digest not in _LOADED:
        _LOADED[digest] = str(library), ctypes.CDLL(str(library))
    return _LOADED[digest][0]


def library_of(path: Path) -> Path | None:
    """Return the library that a model's metadata name, or None.

    Raises:
        SourceError: It is not beside the file.
    """
    model = onnx.load(str(path), load_external_data=False)
    name = next((prop.value for prop in model.metadata_props if prop.key == METADATA_KEY), "")
    if not name:
        return None
    library = path.parent / name
    if Path(name).name != name or not library.is_file():
        raise SourceError(
            f"{path.name} needs the custom operators in {name}, which is not beside it.",
            remedy="Keep the files of the folder together.",
        )
    return library
