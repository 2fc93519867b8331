"""Files named by their content, at a place that several machines reach: an artifact store like any other."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.registry.calls import registry_calls, use_client_defaults
from registry_export.registry.files import list_folder, open_repository
from registry_export.scratch import Scratch

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


class Blobs:
    """A folder of an artifact store. Safe to use from several threads.

    Args:
        uri: The folder's artifact URI (`s3://bucket/steps`); made with the first file where it is absent.
        tracking_uri: The tracking server, which serves what begins with `mlflow-artifacts:`.
    """

    def __init__(self, uri: str, tracking_uri: str = "") -> None:
        use_client_defaults()
        self.uri = uri.rstrip("/")
        self._tracking_uri = tracking_uri
        self._lock = threading.Lock()

    @cached_property
    def _opened(self) -> ArtifactRepository:
        return open_repository(self.uri, self._tracking_uri)

    @property
    def _repository(self) -> ArtifactRepository:
        with self._lock:
            return self._opened

    def put(self, path: Path, name: str) -> None:
        """Store a file under a name.

        Raises:
            RegistryUnavailableError: The store did not answer.
            RegistryError: It refused.
        """
        with Scratch() as folder:
            named = folder / name
            named.symlink_to(path)  # a store calls a file as it is called here
            with registry_calls(f"store a file at {self.uri}", self.uri):
                self._repository.log_artifact(str(named))

    def get(self, name: str, destination: Path) -> None:
        """Fetch a file.

        Raises:
            RegistryUnavailableError: The store did not answer.
            RegistryError: There is no such file, or it may not be read.
        """
        with registry_calls(f"fetch a file from {self.uri}", self.uri):
            self._repository._download_file(name, str(destination))

    def folders(self) -> tuple[str, ...]:
        """Name the folders in this one.

        Raises:
            RegistryError: It cannot be listed.
        """
        with registry_calls(f"list {self.uri}", self.uri):
            return tuple(entry.path for entry in list_folder(self._repository) if entry.is_dir)

    def delete(self, name: str) -> None:
        """Remove a folder in this one, with all that is in it.

        Raises:
            RegistryError: The store cannot delete, or must not.
        """
        with registry_calls(f"delete {self.uri}/{name}", self.uri):
            self._repository.delete_artifacts(name)
