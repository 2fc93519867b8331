"""What a child in an environment of its own needs of this one: our code, and the formats of every package.

They are not installed there. A folder on its `PYTHONPATH` holds a link to each of their packages, and
metadata with the entry points by which formats are found; so it works from a checkout as from a wheel.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

_GROUP = "registry_export.formats"
_OWN = "registry_export"


def link_packages(folder: Path) -> None:
    """Fill an empty folder with links to our package and to those that bring formats."""
    for name in (_OWN, *_module_names()):
        _link(name, folder)
    for distribution in _distributions():
        _write_metadata(distribution, folder)


def _distributions() -> Iterator[Distribution]:
    """Yield each package that brings formats, once: an editable install can be listed twice."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name not in seen and any(entry.group == _GROUP for entry in distribution.entry_points):
            seen.add(name)
            yield distribution


def _module_names() -> Iterator[str]:
    """Yield the top-level modules of those packages: of their formats, and those that they list."""
    for distribution in _distributions():
        for entry in distribution.entry_points:
            if entry.group == _GROUP:
                yield entry.module.partition(".")[0]
        yield from (distribution.read_text("top_level.txt") or "").split()


def _link(name: str, folder: Path) -> None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return  # a broken package is left out there as it is here
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    place = places[0] if places else Path(spec.origin or "")
    link = folder / (name if places else place.name)
    if place.exists() and not link.is_symlink():
        link.symlink_to(place.resolve())


def _write_metadata(distribution: Distribution, folder: Path) -> None:
    name, version = distribution.metadata["Name"], distribution.version
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    entries = [f"{entry.name} = {entry.value}" for entry in distribution.entry_points if entry.group == _GROUP]
    (place / "entry_points.txt").write_text("\n".join([f"[{_GROUP}]", *dict.fromkeys(entries), ""]))
