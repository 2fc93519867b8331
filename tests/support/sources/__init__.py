"""Models for every source format, made in children so that the tests import no framework.

Each module of this package brings a dictionary `SOURCES`, name -> `Source`; they are gathered here.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.support.sources.source import TENSORFLOW, TORCH, Source

__all__ = ["SOURCES", "TENSORFLOW", "TORCH", "Source"]

SOURCES: dict[str, Source] = {}
for _module in pkgutil.iter_modules(__path__):
    SOURCES |= getattr(importlib.import_module(f"{__name__}.{_module.name}"), "SOURCES", {})
