"""Model versions of every kind on a real server, their files written by hand: no framework is imported."""

from __future__ import annotations

from pathlib import Path

import yaml
from mlflow import MlflowClient

from registry_export.entities import ModelVersionRef
from tests.support.affine import SIGNATURE

FILES = {"MLmodel", "data/weights.bin", "data/deep/er/more.bin"}


def write_model(folder: Path) -> Path:
    (folder / "data" / "deep" / "er").mkdir(parents=True)
    document = {"flavors": {"pytorch": {"model_data": "data"}}, "signature": SIGNATURE}
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    (folder / "data" / "weights.bin").write_bytes(b"weights")
    (folder / "data" / "deep" / "er" / "more.bin").write_bytes(b"more")
    return folder


class Versions:
    """Registers versions; every kind leads to the same files."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.model = write_model(folder / "model")

    def _register(self, name: str, source: str, run_id: str | None = None, model_id=None):
        if not any(model.name == name for model in self.client.search_registered_models(max_results=1000)):
            self.client.create_registered_model(name)
        return ModelVersionRef(
            name, str(self.client.create_model_version(name, source, run_id, model_id=model_id).version)
        )

    def experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)

    def logged_model(self, name: str) -> ModelVersionRef:
        model = self.client.create_logged_model(self.experiment(name), name="model")
        self.client.log_model_artifacts(model.model_id, str(self.model))
        self.client.finalize_logged_model(model.model_id, "READY")
        return self._register(name, f"models:/{model.model_id}", model_id=model.model_id)

    def of_run(self, name: str, path: str = "nested/my model", source: str = "runs:/{run}/{path}") -> ModelVersionRef:
        run = self.client.create_run(self.experiment(name))
        self.client.log_artifacts(run.info.run_id, str(self.model), path or None)
        self.client.set_terminated(run.info.run_id)
        place = source.format(run=run.info.run_id, path=path, root=run.info.artifact_uri).rstrip("/")
        return self._register(name, place, run.info.run_id)

    def by_artifact_uri(self, name: str) -> ModelVersionRef:
        return self.of_run(name, source="{root}/{path}")

    def whole_run(self, name: str) -> ModelVersionRef:
        return self.of_run(name, path="", source="{root}")

    def copied(self, name: str) -> ModelVersionRef:
        """A copy of a copy, as the UI's "Promote model" makes them."""
        ref = self.logged_model(f"{name}-origin")
        for destination in (f"{name}-between", name):
            version = self.client.copy_model_version(ref.uri, destination)
            ref = ModelVersionRef(destination, str(version.version))
        return ref


KINDS = ("logged_model", "of_run", "by_artifact_uri", "whole_run", "copied")
