"""Formats that only a cluster tells apart: one wants a resource of a Dask worker, one takes the worker along."""

from __future__ import annotations

from pathlib import Path

from registry_export.format import Conversion, Toolchain
from tests.support import planted

ACCELERATED = Toolchain("accelerated", ("numpy",), resource="accelerator")
POISON = Toolchain("poison", ("tests.support.poison",))


def install(folder: Path, version: str = "1.0") -> str:
    """Make distributions with the entry points, `planted`'s too; returns what PYTHONPATH must hold."""
    info = folder / "planted_cluster-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: planted-cluster\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(
        "[registry_export.formats]\n"
        "planted_accelerated = tests.support.planted_cluster:Accelerated\n"
        "planted_poison = tests.support.planted_cluster:Poison\n"
    )
    return planted.install(folder)


class Accelerated(planted.Planted):
    """Is verified where an accelerator is."""

    name = "planted_accelerated"
    toolchain = ACCELERATED


class Poison(planted.Planted):
    """Ends the process that has started its toolchain."""

    name = "planted_poison"
    options = ()
    conversions = (Conversion(planted.KIND, planted._second_way, POISON),)
