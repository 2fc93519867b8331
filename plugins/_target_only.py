"""What formats have in common that are made and never read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import Interface


class TargetOnly:
    """Base of formats from which nothing converts; see `registry_export.format.Format` for its members."""

    kind = ""

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find nothing: such a file is never a source."""
        return None

    def load(self, path: Path, interface: Interface) -> Any:
        """Return the path: nothing converts from what it holds."""
        return path
