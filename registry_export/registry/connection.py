"""One client for everything, made when it is first needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from registry_export.entities import ModelVersionRef
from registry_export.errors import ConfigurationError
from registry_export.registry.calls import registry_calls, use_client_defaults
from registry_export.registry.location import Location, locate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_UNITY_CATALOG = ("databricks-uc", "uc")


@dataclass(frozen=True)
class Claim:
    """On whose behalf things are written.

    Attributes:
        job: Names the job, in all of its attempts.
        again: Whether it was attempted before.
        check: Called before every write; raises where the job is another worker's by now.
    """

    job: str
    again: bool
    check: Callable[[], None]


class Connection:
    """A tracking server.

    Args:
        tracking_uri: MLflow's tracking URI; None for what `MLFLOW_TRACKING_URI` says.
        registry_uri: The model registry's, where it is another server's.

    Raises:
        ConfigurationError: The registry is one that cannot hold what is published.
    """

    def __init__(self, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        use_client_defaults()
        self._given_uri = tracking_uri
        self.registry_uri = registry_uri or tracking_uri
        _refuse_unity_catalog(tracking_uri, registry_uri)
        self._connected: MlflowClient | None = None
        self._places: dict[ModelVersionRef, Location] | None = None
        self._claim: Claim | None = None

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

            self._connected = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.registry_uri)
        return self._connected

    @property
    def _versions(self) -> Any:
        """MLflow's client of model versions alone.

        `MlflowClient` reads the whole registered model before every tag that it sets, in case it is a prompt: a call
        that costs more than the tag.
        """
        return getattr(self._client, "_get_registry_client", lambda: self._client)()

    @contextlib.contextmanager
    def writing_for(self, claim: Claim) -> Iterator[None]:
        """Write nothing in the block but for a job that is still ours, and name it on what is made."""
        self._claim = claim
        try:
            yield
        finally:
            self._claim = None

    @contextlib.contextmanager
    def _writes(self, doing: str) -> Iterator[None]:
        """As `_calls`, for what others see."""
        if self._claim is not None:
            self._claim.check()
        with self._calls(doing):
            yield

    def _calls(self, doing: str) -> AbstractContextManager[None]:
        return registry_calls(doing, self.tracking_uri)

    @contextlib.contextmanager
    def keeping_places(self) -> Iterator[None]:
        """Find each version's folder once for as long as the block lasts, as one job's many calls may.

        Not for longer: a registered model that is deleted and made anew counts its versions from 1 again.
        """
        self._places = {}
        try:
            yield
        finally:
            self._places = None

    def location(self, ref: ModelVersionRef) -> Location:
        """Find the folder that holds a version's files."""
        if self._places is not None and ref in self._places:
            return self._places[ref]
        with self._calls(f"find the files of {ref}"):
            return self._place(ref, self._client.get_model_version(ref.name, ref.version))

    def _place(self, ref: ModelVersionRef, version: ModelVersion) -> Location:
        """Return the folder of a version that was just read."""
        places = self._places
        if places is None:
            return locate(self._client, self._versions, version)
        if ref not in places:
            places[ref] = locate(self._client, self._versions, version)
        return places[ref]


def _refuse_unity_catalog(tracking_uri: str | None, registry_uri: str | None) -> None:
    """Refuse the registry that MLflow takes for Databricks where nobody names one, before anything is converted."""
    named = urlparse(registry_uri or "").scheme or registry_uri
    is_default = not named and (urlparse(tracking_uri or "").scheme or tracking_uri) == "databricks"
    if is_default or named in _UNITY_CATALOG:
        raise ConfigurationError(
            "The model registry is Unity Catalog, which takes neither tags with a full stop in their names nor further "
            "files beside a version.",
            remedy="MLFLOW_REGISTRY_URI=databricks names the workspace's own registry; docs/hosted.md says more.",
        )
