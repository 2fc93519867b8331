"""Where a model version's folder is, and what in MLflow it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlparse

from registry_export.errors import ConfigurationError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_LOGGED_MODEL_URI = re.compile(r"^models:/+(m-[0-9a-f]+)/?$")
_LOGGED_MODEL_PATH = re.compile(r"/models/(m-[0-9a-f]+)/artifacts/?$")
_KEPT_COPY = re.compile(r"^dbfs:/+databricks/mlflow-registry/")
"""Where the workspace registry of Databricks keeps a copy of a version that nobody else may write to."""
_VERSION = re.compile(r"[0-9]+|latest|none|staging|production|archived", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """The folder that `models:/name/version` downloads.

    Attributes:
        uri: Artifact URI of the folder.
        logged_model_id: The logged model that it is, or None.
        run_id: The run whose artifacts hold it when it is no logged model, or None.
        run_path: The folder's path within that run's artifacts.
        experiment_id: The experiment of either, or None for a folder of neither.
    """

    uri: str
    logged_model_id: str | None = None
    run_id: str | None = None
    run_path: str = ""
    experiment_id: str | None = None

    def ui_link(self, path: str) -> str | None:
        """Link to a file of the folder in MLflow's UI, without a host; None for a folder of neither kind.

        Args:
            path: The file's path relative to the folder.
        """
        if self.experiment_id is None:
            return None
        if self.logged_model_id is not None:
            # The logged model's page has no links to single files.
            return f"#/experiments/{self.experiment_id}/models/{self.logged_model_id}/artifacts"
        full = PurePosixPath(self.run_path) / path
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}/artifacts/{quote(str(full))}"


def split_model_uri(model_uri: str) -> tuple[str, str, str]:
    """Split `models:/name/value` or `models:/name@value`.

    Returns:
        The name, `version` or `alias`, and the value; a stage is a `version`.

    Raises:
        ConfigurationError: It is neither.
    """
    scheme, _, rest = model_uri.partition(":/")
    rest = rest.strip("/")
    name, slash, version = rest.rpartition("/")
    if scheme == "models" and slash and name and _VERSION.fullmatch(version):
        return name, "version", version
    name, at, alias = rest.rpartition("@")
    if scheme == "models" and at and name and alias:
        return name, "alias", alias
    raise ConfigurationError(
        f"{model_uri!r} does not name a version of a registered model.",
        remedy="Write models:/name/3, models:/name@alias or models:/name/Staging.",
    )


def logged_model_in(source: str | None) -> str | None:
    """Return the logged model that a version's source names, or None.

    MLflow's open-source server leaves `ModelVersion.model_id` empty; the source is
    `models:/m-...` or ends in `/models/m-.../artifacts`.
    """
    match = _LOGGED_MODEL_URI.match(source or "") or _LOGGED_MODEL_PATH.search(urlparse(source or "").path)
    return match.group(1) if match else None


def locate(client: MlflowClient, versions: Any, version: ModelVersion) -> Location:
    """Find a version's folder; a copied version leads to the folder of its origin.

    Args:
        client: The client to ask.
        versions: MLflow's client of model versions alone.
        version: The version, as the registry returned it.
    """
    # The registry resolves `models:/...` sources itself, through any chain of copies.
    uri = versions.get_model_version_download_uri(version.name, version.version)
    uri = version.source if _KEPT_COPY.match(uri) else uri
    model_id = logged_model_in(uri) or logged_model_in(version.source)
    if model_id is not None:
        return _of_logged_model(client, model_id)
    if urlparse(uri).scheme == "runs":
        run_id, _, path = urlparse(uri).path.lstrip("/").partition("/")
        return _of_run(client, run_id, path)
    if version.run_id:
        return _within_run(client, version.run_id, uri)
    return Location(uri)


def folder_uri(client: MlflowClient, name: str, version: str, source: str) -> str:
    """Find the artifact URI alone of a version's folder, in as few calls as its source needs."""
    # The registry resolves `models:/...` sources itself, through any chain of copies.
    copied = urlparse(source).scheme == "models" and logged_model_in(source) is None
    uri = str(client.get_model_version_download_uri(name, version)) if copied else source
    model_id = logged_model_in(uri)
    if model_id is not None:
        return str(client.get_logged_model(model_id).artifact_location)
    if urlparse(uri).scheme == "runs":
        run_id, _, path = urlparse(uri).path.lstrip("/").partition("/")
        return _of_run(client, run_id, path).uri
    return uri


def _of_logged_model(client: MlflowClient, model_id: str) -> Location:
    model = client.get_logged_model(model_id)
    return Location(model.artifact_location, logged_model_id=model_id, experiment_id=model.experiment_id)


def _of_run(client: MlflowClient, run_id: str, path: str) -> Location:
    """A `runs:/` source: a folder of the run, or a logged model of that name which the run made."""
    run = client.get_run(run_id)
    outputs = getattr(run, "outputs", None)
    for output in getattr(outputs, "model_outputs", None) or ():
        if client.get_logged_model(output.model_id).name == path:
            return _of_logged_model(client, output.model_id)
    uri = f"{run.info.artifact_uri.rstrip('/')}/{path}".rstrip("/")
    return Location(uri, run_id=run_id, run_path=path, experiment_id=run.info.experiment_id)


def _within_run(client: MlflowClient, run_id: str, uri: str) -> Location:
    """A folder given by its artifact URI: part of the run's artifacts when it lies under their root."""
    run = client.get_run(run_id)
    root, folder = (unquote(urlparse(place).path).rstrip("/") for place in (run.info.artifact_uri, uri))
    if folder != root and not folder.startswith(f"{root}/"):
        return Location(uri, experiment_id=None)
    path = folder[len(root) :].lstrip("/")
    return Location(uri, run_id=run_id, run_path=path, experiment_id=run.info.experiment_id)
