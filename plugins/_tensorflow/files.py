"""Tells apart, without a framework, what lies in a folder of TensorFlow's and Keras's files.

Sources: https://www.tensorflow.org/guide/checkpoint, https://keras.io/guides/serialization_and_saving/
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from registry_export.errors import SourceError

WEIGHTS_SUFFIXES = (".weights.h5", ".weights.json")
_HDF5 = (".h5", ".hdf5")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_STATE = re.compile(r'^model_checkpoint_path:\s*"(?P<path>[^"]+)"', re.MULTILINE)
_KERAS_2 = re.compile(rb"(?<!/)layer_with_weights-\d+/")
_MOST_STATE_BYTES = 64 * 1024


def is_weights(path: Path) -> bool:
    """Whether a file of Keras holds weights without an architecture.

    A whole model in HDF5 has the attribute `model_config`; a file of weights has not. What is no HDF5 at all is left
    to the format of whole models, whose loader says so.
    """
    if path.name.endswith(WEIGHTS_SUFFIXES):
        return True
    return path.suffix in _HDF5 and _holds(path, _HDF5_SIGNATURE) and not _holds(path, b"model_config")


def _holds(path: Path, content: bytes) -> bool:
    if path.stat().st_size == 0:
        return False  # nothing can be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(content) >= 0


def checkpoint_index(folder: Path) -> Path | None:
    """Find the index of the checkpoint that a folder is about.

    The file `checkpoint` names the newest; without it the last by name is taken (`cp-0001`, `cp-0002`, ...).
    """
    if not folder.is_dir():
        return None
    state = folder / "checkpoint"
    named = _STATE.search(_beginning(state)) if state.is_file() else None
    if named is not None:
        index = folder / f"{Path(named['path']).name}.index"
        if index.is_file():
            return index
    found = sorted(folder.glob("*.index"))
    return found[-1] if found else None


def _beginning(path: Path) -> str:
    """Read where the newest checkpoint stands; whatever is called so may be anything, of any size."""
    with path.open("rb") as file:
        return file.read(_MOST_STATE_BYTES).decode(errors="replace")


def require_values(prefix: Path) -> None:
    """Ask for the files that hold a checkpoint's values; without them TensorFlow speaks of one that does not match.

    Args:
        prefix: The checkpoint's path without a suffix.

    Raises:
        SourceError: There are none.
    """
    if not any(path.name.startswith(f"{prefix.name}.data-") for path in prefix.parent.iterdir()):
        raise SourceError(
            f"The checkpoint {prefix.name} has its index here, and no file with values ({prefix.name}.data-*).",
            remedy="Log all of its files.",
        )


def is_keras_2_weights(index: Path) -> bool:
    """Whether a checkpoint was written by Keras 2's `save_weights`: its root is a model, and not an object with one.

    The index is a sorted table whose keys stand in it as they are, each without what it shares with the one before.
    """
    if index.stat().st_size == 0:
        return False  # nothing can be mapped
    with index.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _KERAS_2.search(mapped) is not None
