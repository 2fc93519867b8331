"""Looking into TorchScript files without reading their weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from registry_export_plugins._torch.calls import without_deprecations

_M_MMAP_THRESHOLD = -3
"""Of glibc's `malloc.h`, see mallopt(3)."""
_LARGE = 1 << 20


@contextmanager
def outlined(path: Path) -> Iterator[torch.jit.ScriptModule]:
    """Load a script whose tensors have shapes and dtypes alone; it is of use as long as the context lasts.

    Raises:
        RuntimeError: PyTorch cannot load it so. What packs its weights, as quantised layers do, has to have them.
    """
    _return_what_is_freed()
    with torch.library._scoped_library("aten", "IMPL") as operators:
        # Loading and inlining compare constants, which without values they cannot be; to be different is always right.
        operators.impl("equal", _same, "Meta")
        with without_deprecations():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="meta")
        yield module.eval()


def _return_what_is_freed() -> None:
    """Let the memory of freed tensors go back to the system at once.

    PyTorch reads each tensor before it forgets its values. By itself glibc comes to keep what is freed of up to 32 MB,
    in a heap that small allocations between make useless for the next: a third of a transformer's weights stayed.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other
