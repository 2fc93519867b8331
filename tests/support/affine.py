"""A format as small as can be, y = scale * x + shift in a NumPy archive; installed for real, by an entry point."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry_export.entities import (
    Attempt,
    Description,
    ExportReport,
    Interface,
    Metrics,
    ModelVersionRef,
    Rung,
    SourceRecord,
    Status,
    TargetResult,
    TensorSpec,
    Tolerance,
    Verification,
)
from registry_export.format import Conversion, ConversionResult, Option, Toolchain
from registry_export.manifest import combined_digest, file_records, tool_versions, write_artifact
from registry_export.registry import ModelFiles

INTERFACE = Interface((TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 3)),))
TWO_OUTPUTS = Interface(INTERFACE.inputs, (*INTERFACE.outputs, TensorSpec("z", "float32", ("batch", 3))))


class _Runner:
    runtime = f"numpy {np.__version__}"

    def __init__(self, path: Path, interface: Interface) -> None:
        self.interface = interface
        self._numbers = np.load(path)

    def infer(self, inputs):
        (x,) = inputs.values()
        assert x.dtype == np.float32
        y = x * self._numbers["scale"] + self._numbers["shift"]
        return {spec.name: y for spec in self.interface.outputs}


def _convert(model: Any, output: Path, request: Any) -> ConversionResult:
    raise NotImplementedError


class Affine:
    name = "affine"
    summary = "y = scale * x + shift"
    extra = ""
    requirements = ("numpy",)
    toolchain = Toolchain("affine")
    kind = ""
    filename = "model.npz"
    options = (Option("digits", int, 7, "d{value}"),)
    conversions = (Conversion("torch_module", _convert, Toolchain("affine")),)
    verified_by = "NumPy"

    def locate(self, folder, flavors):
        return None

    def load(self, path, interface):
        raise NotImplementedError

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[_Runner]:
        yield _Runner(path, interface)

    def describe(self, path):
        return Description(INTERFACE)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a distribution with the entry point, as pip would, and put it on the path."""
    info = folder / "affine_export-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: affine-export\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[registry_export.formats]\naffine = tests.support.affine:Affine\n")
    monkeypatch.syspath_prepend(str(folder))


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Install it as `install` does, while this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        if not folder.exists():
            install(folder, patch)
        yield


def result(variant: str = "affine", status: Status = Status.VERIFIED, **changes: Any) -> TargetResult:
    metrics = Metrics(max_abs_diff=2.4e-07, max_rel_diff=3e-05, cosine=1.0, snr_db=128.0)
    verification = Verification(
        status,
        evidence="example",
        tolerance=Tolerance(1e-5, 1e-3),
        metrics=metrics,
        rungs=(Rung("example", status, outputs={"y": metrics}),),
        reason="" if status is Status.VERIFIED else f"the reason of {variant}",
        latency_ms=0.25,
        runtime="numpy",
    )
    values: dict[str, Any] = {
        "variant": variant,
        "format": "affine",
        "options": {"digits": 7},
        "status": status,
        "format_version": "1",
        "dynamic_dimensions": {"x": {"0": "batch"}},
        "verification": verification,
        "path": ("pytorch", "affine"),
        "attempts": (Attempt("the only way"),),
        "convert_seconds": 1.5,
        "description": Description(INTERFACE, format_version="1"),
        "key": f"key of {variant}",
        "exported_at": "2026-11-20T20:00:00+00:00",
    }
    return TargetResult(**(values | changes))


def report(ref: ModelVersionRef, *results: TargetResult, **changes: Any) -> ExportReport:
    values: dict[str, Any] = {
        "model_version": ref,
        "trigger": "stage:Staging",
        "source": SourceRecord("pytorch", "torch_module", "pytorch", "cd" * 32, 1000, INTERFACE, "example"),
        "targets": results,
        "status": max((r.status for r in results if r.required), key=list(Status).index, default=Status.UNVERIFIED),
        "created_at": "2026-11-20T20:00:00+00:00",
        "tools": tool_versions(),
    }
    return ExportReport(**(values | changes))


def made(folder: Path, ref: ModelVersionRef, outcome: TargetResult, scale: float = 2.0) -> TargetResult:
    """Write the files of a result into a folder, and return it with their digest."""
    from dataclasses import replace

    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "model.npz", scale=np.float32(scale), shift=np.float32(1))
    records = file_records(folder)
    outcome = replace(outcome, sha256=combined_digest(records), size_bytes=sum(record.size_bytes for record in records))
    write_artifact(folder, report(ref, outcome), outcome, ModelFiles())
    return outcome


SIGNATURE = {
    "inputs": json.dumps([{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]),
    "outputs": json.dumps([{"name": "y", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]),
}
