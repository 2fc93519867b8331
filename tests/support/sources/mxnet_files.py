"""MXNet's files, recorded from MXNet itself, as people log them without a flavor."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from registry_export.format import Toolchain
from tests.support.sources.source import Source

RECORDED = Path(__file__).parents[2] / "data" / "mxnet"
FILES = Toolchain("build-files")

SOURCES = {"mxnet": Source("mxnet", FILES, f"{__name__}:residual", samples=True)}


def _place(arguments, name: str) -> None:
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True)
    for file in (f"{name}-symbol.json", f"{name}-0000.params"):
        shutil.copy(RECORDED / file, folder)
    recorded = np.load(RECORDED / f"{name}.npz")
    np.savez(f"{folder}.npz", **{key.removeprefix("in:"): recorded[key] for key in recorded if key.startswith("in:")})


def residual(arguments):
    _place(arguments, "residual")
