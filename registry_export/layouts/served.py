"""What a server's file is given: the export, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from registry_export.binding import Array
from registry_export.entities import Interface
from registry_export.errors import ArtifactError
from registry_export.manifest import Manifest


@dataclass(frozen=True)
class Served:
    """An export that a server is to load.

    Attributes:
        name: What the server calls the model.
        version: The number of its version.
        manifest: What it is.
        files: The folder that holds its files.
        inputs: Arrays by input name to warm up with, the batch first; empty: there is nothing that fits.
        max_batch_size: How many rows the server may put together; 0: it must not.
        mount: The folder of models, as the server sees it.
    """

    name: str
    version: str
    manifest: Manifest
    files: Path
    inputs: Mapping[str, Array]
    max_batch_size: int
    mount: str

    @property
    def model(self) -> Path:
        """The deployable file or folder."""
        return self.files / self.manifest.filename


@dataclass(frozen=True)
class Server:
    """An inference server.

    Attributes:
        name: As a user types it.
        formats: Those that it loads.
        write: Writes the folder `<name>` of one model, its version in it, and what belongs beside it, into an empty
            folder. The folder that it will be moved to is given for what other models have left there.
        start: The command that serves such a folder, with `{folder}` for it and `{mount}` for where the server sees it.
        notes: Format -> what a person should know of it at this server.
        config: The file beside the models that it reads; empty: none.
    """

    name: str
    formats: tuple[str, ...]
    write: Callable[[Served, Path, Path], None]
    start: str
    notes: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


def is_batched(interface: Interface) -> bool:
    """Whether the first dimension of every input and output is one and the same dynamic one."""
    tensors = (*interface.inputs, *interface.outputs)
    first = {spec.shape[0] if spec.shape else None for spec in tensors}
    return len(first) == 1 and all(isinstance(size, str) for size in first)


def shape_of(name: str, shape: tuple[int | str, ...] | None, server: str) -> tuple[int, ...]:
    """Return a shape with -1 where a dimension is dynamic.

    Raises:
        ArtifactError: Not even its rank is known, which the server must be told.
    """
    if shape is None:
        raise ArtifactError(f"{server} must be told how many dimensions {name} has, and the export does not tell.")
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def zeros_for(interface: Interface) -> dict[str, Array]:
    """Make inputs of zeros, one row in each; none where a size beyond the batch is open: any may be wrong."""
    arrays: dict[str, Array] = {}
    for spec in interface.inputs:
        if spec.shape is None or any(isinstance(size, str) for size in spec.shape[1:]):
            return {}
        try:
            array = np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], spec.dtype)
        except TypeError:  # a type that NumPy does not have
            return {}
        if array.dtype.isbuiltin != 1:  # nor has by itself: a package adds it where it is imported
            return {}
        arrays[spec.name] = array
    return arrays
