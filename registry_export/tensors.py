"""Arrays on their way between processes: one folder, one `.npy` file an array, and an index of names.

Never a pickle. A file can be memory-mapped, so a comparison of large outputs needs no second copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry_export.parsing import NO_ARRAY, PARSER

_INDEX = "index.json"
_MOST_BYTES = 1 << 20


def write_tensors(folder: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays of any shape and any non-object dtype, in order.

    Args:
        folder: Created if absent.
        tensors: Arrays by name; names are free text, and may be empty.
    """
    with TensorFolder(folder) as made:
        for name, array in tensors.items():
            made.add(name, array)


class TensorFolder:
    """Writes arrays one at a time; what is there is whole once it is left as a context manager.

    Args:
        folder: Created if absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: list[str] = []

    def add(self, name: str, array: NDArray[np.generic]) -> None:
        """Write an array of any shape and any non-object dtype."""
        np.save(self._folder / f"{len(self._names)}.npy", np.asarray(array), allow_pickle=False)
        self._names.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        (self._folder / _INDEX).write_bytes(msgspec.json.encode(self._names))


def read_tensors(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Read what `write_tensors` wrote, memory-mapped where an array has any element.

    Raises:
        ValueError: A file is not an array, or holds objects; or the index is none.
    """
    index = folder / _INDEX
    if index.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{_INDEX} is larger than {_MOST_BYTES} bytes")
    try:
        names = msgspec.json.decode(index.read_bytes(), type=list[str])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"{_INDEX} is no list of names: {error}") from error
    return {name: _read(folder / f"{position}.npy") for position, name in enumerate(names)}


def _read(path: Path) -> NDArray[np.generic]:
    try:
        with PARSER:
            array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except NO_ARRAY as error:
        raise ValueError(f"{path.name} is no array: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays, by its first bytes
        raise ValueError(f"{path.name} is no array")
    return array
