"""Versions of the planted model on a real server, exported, verified and spoiled by real children."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, ModelVersionRef
from registry_export.export import export_model_version
from registry_export.isolation import ChildPool, Limits
from registry_export.registry import Registry
from registry_export.reporter import Reporter
from registry_export.reverification import reverify_model_version
from tests.support import planted


class Steps(Reporter):
    """Keeps the names of the steps that began, what came of each, and the notes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.outcomes: list[str] = []
        self.notes: list[str] = []

    def step_started(self, step: str, variant: str) -> None:
        self.names.append(step)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        self.outcomes.append(outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)


class PlantedVersions:
    """Registers, exports and verifies.

    Attributes:
        uri: The server's.
        formats: The installed ones, with those of `planted`.
    """

    def __init__(self, uri: str, pool: ChildPool) -> None:
        self.uri, self.pool = uri, pool
        self.registry = Registry(uri)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.formats = discover_formats()

    def register(self, name: str, *, scale: float = 2.0) -> ModelVersionRef:
        """Register the next version of a model; each has files of its own."""
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        if experiment is None:
            self.client.create_registered_model(name)
        run = self.client.create_run(experiment_id)
        with tempfile.TemporaryDirectory() as folder:
            planted.save(Path(folder, "model"), scale=scale)
            (Path(folder, "model") / "MLmodel").write_text(f"{_MLMODEL}run_id: {run.info.run_id}\n")
            self.client.log_artifacts(run.info.run_id, str(Path(folder, "model")), "model")
        source = f"{run.info.artifact_uri}/model"
        return ModelVersionRef(name, str(self.client.create_model_version(name, source, run.info.run_id).version))

    def export(self, ref: ModelVersionRef, targets: str = "planted", **rest) -> ExportReport:
        """Export a version; whatever stopped the export before stops this one no more, as in a worker."""
        self.pool.cancelled.clear()
        return export_model_version(
            ref,
            targets=parse_targets(targets, "test", self.formats),
            trigger=rest.pop("trigger", "manual"),
            registry=self.registry,
            formats=self.formats,
            pool=self.pool,
            **rest,
        )

    def verify(self, ref: ModelVersionRef, *variants: str, **rest) -> ExportReport:
        """Verify the stored exports of a version again."""
        return reverify_model_version(
            ref, registry=self.registry, formats=self.formats, pool=self.pool, variants=variants, **rest
        )

    def tags(self, ref: ModelVersionRef) -> dict[str, str]:
        """The version's tags, without our prefix."""
        tags = self.registry.version(ref).tags
        return {name.removeprefix("registry_export."): value for name, value in tags.items()}

    def store(self, ref: ModelVersionRef, path: str, content: bytes) -> None:
        """Put a file in the place of one of the version's."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, Path(path).name).write_bytes(content)
            self.registry.upload(ref, Path(folder), str(Path(path).parent).removeprefix("."))

    def stored(self, ref: ModelVersionRef, path: str) -> bytes:
        """Read one of the version's files."""
        with tempfile.TemporaryDirectory() as folder:
            return self.registry.download_artifact(ref, path, Path(folder)).read_bytes()


def count(
    versions: PlantedVersions, ref: ModelVersionRef, targets: str = "planted", **rest
) -> tuple[ExportReport, int, Steps]:
    """Export, and say how many conversions that took."""
    steps = Steps()
    report = versions.export(ref, targets, reporter=steps, **rest)
    return report, steps.names.count("convert"), steps


_MLMODEL = """
flavors: {planted: {}}
signature:
  inputs: '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]'
"""


@contextmanager
def planted_versions(uri: str, folder: Path) -> Iterator[PlantedVersions]:
    """Install the planted formats, for this process and its children, while it lasts."""
    path = planted.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.syspath_prepend(path.split(os.pathsep)[0])
        importlib.invalidate_caches()
        with ChildPool(Limits(timeout_s=60)) as pool:
            yield PlantedVersions(uri, pool)
