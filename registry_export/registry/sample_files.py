"""Samples that a rule names: a NumPy archive on disk or in an artifact store."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.errors import SamplesError
from registry_export.parsing import NO_ARRAY, PARSER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_BYTES = 4_000_000_000
"""Of all arrays of an archive, which a few kilobytes may pretend to be."""
_MAGIC = b"\x93NUMPY"


def _starts_as_an_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_arrays(path: Path, place: str) -> dict[str, NDArray[np.generic]]:
    """Read a `.npz` archive (inputs by name) or a `.npy` file (one input without a name).

    Args:
        path: The file.
        place: What messages call it.

    Raises:
        SamplesError: It is missing, no such file, empty, or holds Python objects.
    """
    import numpy as np

    remedy = "Write it with numpy.savez(path, input_name=array, ...)."
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MOST_BYTES:
                raise ValueError(f"unpacked it is larger than {_MOST_BYTES / 1e9:.0f} GB")
        elif not _starts_as_an_array(path):  # NumPy takes what is left for a pickle, and says how to load that
            raise ValueError("it is neither a zip archive nor a .npy file")
        with PARSER:
            content = np.load(path, allow_pickle=False)
            arrays = {"": content} if isinstance(content, np.ndarray) else dict(content)
    except FileNotFoundError as error:
        raise SamplesError(f"The samples {place} do not exist.") from error
    except (OSError, zipfile.BadZipFile, *NO_ARRAY) as error:
        raise SamplesError(f"The samples {place} are no NumPy archive: {error}.", remedy=remedy) from error
    if not arrays:
        raise SamplesError(f"The samples {place} hold no array.", remedy=remedy)
    return arrays
