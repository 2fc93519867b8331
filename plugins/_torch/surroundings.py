"""Packages around PyTorch that are optional to the models that use them."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

from registry_export.errors import SourceError


def hide_broken(name: str) -> None:
    """Make an optional package absent for this process where it is installed but cannot be imported.

    torchvision made for CUDA next to a torch for the CPU is such a one, and transformers imports it
    wherever it finds it.
    """
    if name in sys.modules or find_spec(name) is None:
        return
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001  an extension that does not load raises whatever it likes
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]
        # What is None there is neither found nor imported, and raises ModuleNotFoundError.
        sys.modules[name] = None  # type: ignore[assignment]


def require(package: str, needed_by: str) -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        SourceError: It is not installed.
    """
    if find_spec(package) is None:
        raise SourceError(
            f"{needed_by} needs the package {package}, which is not installed here.",
            remedy=f"Run `pip install {package}` where the worker runs.",
        )
