"""Reading and writing model versions, their files, tags and metrics."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.entities import ModelVersionRef
from registry_export.errors import ArtifactError, ModelVersionNotFoundError, RegistryError
from registry_export.registry.calls import registry_calls, use_client_defaults, without_printed_links
from registry_export.registry.files import fetch, list_folder, open_repository, walk
from registry_export.registry.location import Location, locate, logged_model_in, split_model_uri
from registry_export.registry.sample_files import is_artifact_uri, read_arrays

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from numpy.typing import NDArray

EXPORTS_FOLDER = "exports"
"""Our folder inside a version's own; never part of the checkpoint."""

_EXPERIMENT = "registry-export"
_PAGE = 100


@dataclass(frozen=True)
class VersionInfo:
    """One model version as the registry has it.

    Attributes:
        source: Where it was registered from (`models:/m-...`, `runs:/...`, a path).
        run_id: The run that logged it, or None.
        logged_model_id: The logged model that it is, or None for the folder of a run.
        stage: `None`, `Staging`, `Production` or `Archived`, as MLflow writes them.
        last_updated_ms: Milliseconds since the epoch; MLflow moves it for stages and descriptions,
            not for aliases and tags.
        status: MLflow's own (`READY`).
    """

    ref: ModelVersionRef
    source: str
    run_id: str | None = None
    logged_model_id: str | None = None
    stage: str = "None"
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    experiment_id: str | None = None
    last_updated_ms: int = 0
    status: str = "READY"


class Registry:
    """A model registry and its artifact store.

    Args:
        tracking_uri: MLflow's tracking URI; None for what `MLFLOW_TRACKING_URI` says. Versions whose
            files are served by the server (`mlflow-artifacts:`) need an HTTP one.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        use_client_defaults()
        self._given_uri = tracking_uri
        self._connected: MlflowClient | None = None

    @property
    def tracking_uri(self) -> str:
        """The tracking URI in use."""
        if self._given_uri:
            return self._given_uri
        import mlflow

        return str(mlflow.get_tracking_uri())

    @property
    def _client(self) -> MlflowClient:
        if self._connected is None:
            from mlflow import MlflowClient

            self._connected = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self._given_uri)
        return self._connected

    def _calls(self, doing: str) -> AbstractContextManager[None]:
        return registry_calls(doing, self.tracking_uri)

    # Versions

    def resolve(self, model_uri: str) -> ModelVersionRef:
        """Return the version that a URI means now.

        Args:
            model_uri: `models:/name/3`, `models:/name@alias`, `models:/name/Staging` or `models:/name/latest`.

        Raises:
            ConfigurationError: It is no URI of a registered model's version.
            ModelVersionNotFoundError: Nothing is registered there.
        """
        name, kind, value = split_model_uri(model_uri)
        with self._calls(f"find {model_uri}"):
            if kind == "alias":
                return _ref(self._client.get_model_version_by_alias(name, value))
            if value.isdecimal():
                return _ref(self._client.get_model_version(name, value))
            stages = None if value.lower() == "latest" else [value]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and are what was asked for
                found = self._client.get_latest_versions(name, stages=stages)
        if not found:
            raise ModelVersionNotFoundError(f"No version of {name} is in stage {value}.")
        return _ref(max(found, key=lambda version: int(version.version)))

    def version(self, ref: ModelVersionRef) -> VersionInfo:
        """Read a version.

        Raises:
            ModelVersionNotFoundError: It does not exist, or was deleted.
        """
        with self._calls(f"read {ref}"):
            found = self._client.get_model_version(ref.name, ref.version)
            place = locate(self._client, found)
        return _info(found, place)

    def location(self, ref: ModelVersionRef) -> Location:
        """Find the folder that holds a version's files."""
        with self._calls(f"find the files of {ref}"):
            return locate(self._client, self._client.get_model_version(ref.name, ref.version))

    def versions_changed_since(self, timestamp_ms: int) -> Iterator[VersionInfo]:
        """Yield versions updated at or after a time, newest first; the cost grows with their number.

        MLflow counts stage transitions and descriptions as updates, not aliases and tags. The
        experiment is not looked up.

        Args:
            timestamp_ms: Milliseconds since the epoch, by the server's clock.
        """
        token: str | None = None
        while True:
            with self._calls("list model versions"):
                page = self._client.search_model_versions(
                    max_results=_PAGE, order_by=["last_updated_timestamp DESC"], page_token=token
                )
            for found in page:
                if int(found.last_updated_timestamp or 0) < timestamp_ms:
                    return
                yield _info(found)
            token = page.token
            if not token:
                return

    def aliases(self) -> Iterator[tuple[ModelVersionRef, str]]:
        """Yield every alias in the registry with the version it points to."""
        token: str | None = None
        while True:
            with self._calls("list registered models"):
                page = self._client.search_registered_models(max_results=_PAGE, page_token=token)
            for model in page:
                for alias, version in sorted(dict(model.aliases or {}).items()):
                    yield ModelVersionRef(model.name, str(version)), str(alias)
            token = page.token
            if not token:
                return

    def model_tags(self, name: str) -> dict[str, str]:
        """Read the tags of a registered model.

        Raises:
            ModelVersionNotFoundError: It does not exist.
        """
        with self._calls(f"read {name}"):
            return dict(self._client.get_registered_model(name).tags)

    def set_tags(self, ref: ModelVersionRef, tags: Mapping[str, str]) -> None:
        """Set tags, in the order given."""
        with self._calls(f"tag {ref}"):
            for name, value in tags.items():
                self._client.set_model_version_tag(ref.name, ref.version, name, value)

    def delete_tags(self, ref: ModelVersionRef, names: tuple[str, ...]) -> None:
        """Remove tags; those that are not there are passed over."""
        with self._calls(f"remove tags of {ref}"):
            for name in names:
                self._client.delete_model_version_tag(ref.name, ref.version, name)

    def set_description(self, ref: ModelVersionRef, description: str) -> None:
        """Replace a version's whole description."""
        with self._calls(f"describe {ref}"):
            self._client.update_model_version(ref.name, ref.version, description)

    def set_stage(self, ref: ModelVersionRef, stage: str) -> None:
        """Move a version to a stage and leave the others where they are."""
        with self._calls(f"move {ref} to {stage}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client.transition_model_version_stage(ref.name, ref.version, stage)

    def set_alias(self, ref: ModelVersionRef, alias: str) -> None:
        """Point an alias of the registered model at this version."""
        with self._calls(f"set the alias {alias} on {ref}"):
            self._client.set_registered_model_alias(ref.name, alias, ref.version)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias of a registered model."""
        with self._calls(f"remove the alias {alias} of {name}"):
            self._client.delete_registered_model_alias(name, alias)

    # Files

    def download(self, ref: ModelVersionRef, destination: Path) -> Path:
        """Fetch a version's model folder, without our `exports/`.

        Args:
            ref: The version.
            destination: Folder to fill; made if absent.

        Returns:
            `destination`.

        Raises:
            RegistryError: Its files are gone.
        """
        place = self.location(ref)
        with self._calls(f"download {ref}"):
            repository = open_repository(place.uri, self.tracking_uri)
            checkpoint = [entry for entry in list_folder(repository) if entry.path != EXPORTS_FOLDER]
            if not checkpoint:
                raise RegistryError(
                    f"The files of {ref} are gone: nothing is stored at {place.uri}.",
                    remedy="Log the model again and register that version.",
                )
            fetch(repository, checkpoint, destination)
        return destination

    def list_artifacts(self, ref: ModelVersionRef, path: str = "") -> tuple[str, ...]:
        """List the files under a path of a version's folder, recursively, as paths relative to the folder."""
        place = self.location(ref)
        with self._calls(f"list the files of {ref}"):
            repository = open_repository(place.uri, self.tracking_uri)
            return walk(repository, list_folder(repository, path))

    def download_artifact(self, ref: ModelVersionRef, path: str, destination: Path) -> Path:
        """Fetch one file or folder of a version's folder.

        Args:
            ref: The version.
            path: Relative to the version's folder (`exports/onnx`).
            destination: Folder to fill; made if absent.

        Returns:
            Where it is now: `destination / path`.

        Raises:
            ArtifactError: Nothing is stored there.
        """
        place = self.location(ref)
        with self._calls(f"download {path} of {ref}"):
            repository = open_repository(place.uri, self.tracking_uri)
            parent = path.rpartition("/")[0]
            entries = [entry for entry in list_folder(repository, parent) if entry.path == path]
            if not entries:
                raise ArtifactError(f"{ref} has no {path}.")
            fetch(repository, entries, destination)
        return destination / path

    def upload(self, ref: ModelVersionRef, folder: Path, path: str) -> None:
        """Store a local folder's files under a path of a version's folder; files of the same name are replaced."""
        place = self.location(ref)
        with self._calls(f"upload {path} of {ref}"):
            open_repository(place.uri, self.tracking_uri).log_artifacts(str(folder), path or None)

    def delete_artifacts(self, ref: ModelVersionRef, path: str) -> None:
        """Remove a folder inside a version's folder.

        Raises:
            RegistryError: The artifact store cannot delete, or must not.
        """
        place = self.location(ref)
        with self._calls(f"delete {path} of {ref}"):
            open_repository(place.uri, self.tracking_uri).delete_artifacts(path)

    def read_samples(self, place: str, work: Path) -> dict[str, NDArray[np.generic]]:
        """Read the samples that a rule names.

        Args:
            place: Path of a `.npz` file, or its URI in an artifact store (`runs:/...`, `s3://...`).
            work: Folder to download to.

        Returns:
            Arrays by input name.

        Raises:
            SamplesError: There is no such file, or it is no archive of arrays.
        """
        if not is_artifact_uri(place):
            return read_arrays(Path(place), place)
        with self._calls(f"download the samples {place}"):
            from mlflow.artifacts import download_artifacts

            path = download_artifacts(artifact_uri=place, dst_path=str(work), tracking_uri=self.tracking_uri)
        return read_arrays(Path(path), place)

    # Runs

    def create_export_run(self, ref: ModelVersionRef, trigger: str) -> str:
        """Start the run that an export's metrics are logged on.

        It lives in the experiment of the version's source, else in one named `registry-export`, and
        takes the logged model as its input, so that MLflow shows the registered model beside it.

        Returns:
            The run's id.
        """
        place = self.location(ref)
        with self._calls(f"start an export run for {ref}"):
            experiment = self._active_experiment(place.experiment_id)
            tags = {
                "registry_export.model_name": ref.name,
                "registry_export.model_version": ref.version,
                "registry_export.trigger": trigger,
            }
            run = self._client.create_run(experiment, run_name=f"export {ref.name} v{ref.version}", tags=tags)
            run_id = str(run.info.run_id)
            if place.logged_model_id is not None:
                from mlflow.entities import LoggedModelInput

                self._client.log_inputs(run_id, models=[LoggedModelInput(place.logged_model_id)])
        return run_id

    def _active_experiment(self, experiment_id: str | None) -> str:
        if experiment_id is not None:
            experiment = self._client.get_experiment(experiment_id)
            if experiment.lifecycle_stage == "active":
                return str(experiment_id)
        found = self._client.get_experiment_by_name(_EXPERIMENT)
        return str(found.experiment_id) if found is not None else str(self._client.create_experiment(_EXPERIMENT))

    def log_metrics(self, run_id: str, ref: ModelVersionRef, metrics: Mapping[str, float]) -> None:
        """Log metrics on a run and, where the version is a logged model, on that too.

        Values that are not finite are left out: SQL databases store other numbers in their place.
        """
        from mlflow.entities import Metric

        place = self.location(ref)
        now = int(time.time() * 1000)
        model = {} if place.logged_model_id is None else {"model_id": place.logged_model_id}
        batch = [Metric(key, float(value), now, 0, **model) for key, value in metrics.items() if math.isfinite(value)]
        if batch:
            with self._calls(f"log metrics of {ref}"):
                self._client.log_batch(run_id, metrics=batch)

    def finish_run(self, run_id: str, status: str) -> None:
        """End a run with MLflow's `FINISHED`, `FAILED` or `KILLED`."""
        with self._calls(f"finish run {run_id}"), without_printed_links():
            self._client.set_terminated(run_id, status=status)


def _ref(version: ModelVersion) -> ModelVersionRef:
    return ModelVersionRef(name=str(version.name), version=str(version.version))


def _info(version: ModelVersion, place: Location | None = None) -> VersionInfo:
    return VersionInfo(
        ref=_ref(version),
        source=str(version.source or ""),
        run_id=version.run_id or None,
        logged_model_id=place.logged_model_id if place else logged_model_in(version.source),
        stage=str(version.current_stage or "None"),
        aliases=tuple(version.aliases or ()),
        tags=dict(version.tags or {}),
        description=version.description or "",
        experiment_id=place.experiment_id if place else None,
        last_updated_ms=int(version.last_updated_timestamp or 0),
        status=str(version.status),
    )
