"""Inputs for a server's first run: the version's own example, else zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registry_export.binding import Array, bind_inputs, check_shapes
from registry_export.entities import Interface, ModelVersionRef
from registry_export.errors import ArtifactError, SourceError, VerificationError
from registry_export.layouts.served import is_batched, zeros_for
from registry_export.registry import Registry, read_model

_FILES = ("MLmodel", "input_example.json")


def first_inputs(registry: Registry, ref: ModelVersionRef, interface: Interface, work: Path) -> dict[str, Array]:
    """Choose what an export is first run on.

    Args:
        registry: Holds the version's example.
        ref: The version.
        interface: The export's inputs and outputs.
        work: Folder to download to.

    Returns:
        Arrays by input name, one row where the batch is dynamic: the example's, else zeros; empty where neither can be
        had (a dynamic dimension beyond the batch, and no example that fits).
    """
    try:
        for name in _FILES:
            registry.download_artifact(ref, name, work)
        example = read_model(work).example
    except (ArtifactError, SourceError):
        example = None
    rows = _fitting(example, interface) if example else {}
    if rows and is_batched(interface):
        rows = {name: array[:1] for name, array in rows.items()}
    return {name: np.ascontiguousarray(array) for name, array in (rows or zeros_for(interface)).items()}


def _fitting(example: tuple[tuple[str, Array], ...], interface: Interface) -> dict[str, Array]:
    named = dict(example)
    try:
        arrays = bind_inputs(named[""] if list(named) == [""] else named, interface.inputs)
        check_shapes(arrays, interface.inputs)
    except VerificationError:
        return {}
    return arrays
