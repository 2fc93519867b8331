"""Looking into TorchScript files without reading their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from registry_export_plugins._torch.calls import without_deprecations


@contextmanager
def outlined(path: Path) -> Iterator[torch.jit.ScriptModule]:
    """Load a script whose tensors have shapes and dtypes alone; it is of use as long as the context lasts.

    Raises:
        RuntimeError: PyTorch cannot load it so. What packs its weights, as quantised layers do, has to have them.
    """
    with torch.library._scoped_library("aten", "IMPL") as operators:
        # Loading and inlining compare constants, which without values they cannot be; to be different is always right.
        operators.impl("equal", _same, "Meta")
        with without_deprecations():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="meta")
        yield module.eval()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other
