"""Exports of the suite's sources, each made once: what the contract suite and the matrix are both built on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from registry_export.bench import Bench, run_reference
from registry_export.checkpoint import Checkpoint, read_checkpoint
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.graph import plan_export
from registry_export.isolation import ChildPool
from registry_export.reference import Reference
from registry_export.targets import Made, export_targets
from registry_export.tensors import write_tensors
from tests.support.sources import SOURCES

FORMATS = discover_formats()
TARGETS = [name for name, format_ in FORMATS.items() if format_.conversions]


@dataclass(frozen=True)
class Exported:
    """One source and what was made of it."""

    folder: Path
    checkpoint: Checkpoint
    reference: Reference
    made: dict[str, Made]
    seconds: float


@dataclass
class Laboratory:
    """Sources with their reference outputs, and the exports made of them.

    Attributes:
        folder: Where all of it is made.
        pool: Runs the children; they must be able to import `tests`.
        targets: Source -> targets to make of it, in the command line's notation.
    """

    folder: Path
    pool: ChildPool
    targets: dict[str, list[str]]
    _exported: dict[str, Exported] = field(default_factory=dict)

    def exported(self, source: str) -> Exported:
        """Make a source and its exports on first need."""
        if source not in self._exported:
            self._exported[source] = self._export(source)
        return self._exported[source]

    def build(self, source: str) -> tuple[Path, Path]:
        """Make a source; returns its folder and an empty one to work in."""
        spec = SOURCES[source]
        work = self.folder / source.replace("/", "_")
        (work / "build").mkdir(parents=True)
        folder = work / "model"
        self.pool.call(spec.toolchain, spec.builder, {"folder": str(folder)}, work / "build", writes=(work,))
        return folder, work

    def _export(self, source: str) -> Exported:
        spec = SOURCES[source]
        folder, work = self.build(source)
        began = time.monotonic()
        checkpoint = read_checkpoint(folder, FORMATS, spec.setup)
        bench = Bench(FORMATS, self.pool, work)
        sample, evidence = self._sample(checkpoint, work, Path(f"{folder}.npz") if spec.samples else None)
        wanted = self.targets.get(source, [])
        targets = parse_targets(", ".join(wanted), "the suite", FORMATS) if wanted else ()
        reference = run_reference(bench, checkpoint.origin, sample, evidence, targets)
        plan = plan_export(checkpoint.format, targets, FORMATS, samples=bool(sample))
        made = export_targets(bench, checkpoint.origin, plan, plan.targets, reference)
        return Exported(folder, checkpoint, reference, made, time.monotonic() - began)

    @staticmethod
    def _sample(checkpoint: Checkpoint, work: Path, samples: Path | None) -> tuple[str, str]:
        if samples is not None:
            with np.load(samples) as arrays:
                write_tensors(work / "sample", dict(arrays))
            return str(work / "sample"), "samples"
        if checkpoint.write_example(work / "sample"):
            return str(work / "sample"), "example"
        return "", "random"


def wanted_by(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group (source, target) pairs by source."""
    wanted: dict[str, list[str]] = {}
    for source, target in pairs:
        wanted.setdefault(source, []).append(target)
    return wanted
