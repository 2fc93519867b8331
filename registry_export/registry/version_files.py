"""The files of model versions: the checkpoint, and our exports beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.config import is_artifact_uri
from registry_export.entities import ModelVersionRef
from registry_export.errors import ArtifactError, RegistryError
from registry_export.registry.connection import Connection
from registry_export.registry.files import fetch, list_folder, open_repository, store, walk
from registry_export.registry.location import folder_uri
from registry_export.registry.sample_files import read_arrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPORTS_FOLDER = "exports"
"""Our folder inside a version's own; never part of the checkpoint."""


class VersionFiles(Connection):
    """Moves files between versions and local folders."""

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
                self._refuse_single_file(ref, place.uri)
                raise RegistryError(
                    f"The files of {ref} are gone: nothing is stored at {place.uri}.",
                    remedy="Log the model again and register that version.",
                )
            fetch(repository, checkpoint, destination)
        return destination

    def _refuse_single_file(self, ref: ModelVersionRef, uri: str) -> None:
        """Refuse a version whose source is one file: nothing can be stored inside it."""
        folder, _, name = uri.rstrip("/").rpartition("/")
        beside = list_folder(open_repository(folder, self.tracking_uri), "")
        if any(entry.path == name and not entry.is_dir for entry in beside):
            raise RegistryError(
                f"The source of {ref} is a single file, {name}: exports have no place inside it.",
                remedy="Log it into a folder of its own (mlflow.log_artifact(path, 'model')) and register that folder.",
            )

    def list_artifacts(self, ref: ModelVersionRef, path: str = "") -> tuple[str, ...]:
        """List the files under a path of a version's folder, recursively, as paths relative to the folder."""
        place = self.location(ref)
        with self._calls(f"list the files of {ref}"):
            repository = open_repository(place.uri, self.tracking_uri)
            return tuple(entry.path for entry in walk(repository, list_folder(repository, path)))

    def list_sizes(self, ref: ModelVersionRef, path: str = "") -> dict[str, int | None]:
        """List files as `list_artifacts`, with their sizes in bytes; None where the store does not tell."""
        place = self.location(ref)
        with self._calls(f"list the files of {ref}"):
            repository = open_repository(place.uri, self.tracking_uri)
            return {entry.path: entry.file_size for entry in walk(repository, list_folder(repository, path))}

    def lacks_files(self, ref: ModelVersionRef, source: str, paths: Sequence[str]) -> tuple[str, ...]:
        """Return those of some files of a version's folder that are not stored; one call for each of their folders.

        Args:
            ref: The version.
            source: Where it was registered from, as the registry says.
            paths: Relative to the version's folder.
        """
        with self._calls(f"list the files of {ref}"):
            repository = open_repository(folder_uri(self._client, ref.name, ref.version, source), self.tracking_uri)
            folders = {path.rpartition("/")[0] for path in paths}
            stored = {entry.path for folder in folders for entry in list_folder(repository, folder)}
        return tuple(path for path in paths if path not in stored)

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
        with self._writes(f"upload {path} of {ref}"):
            store(open_repository(place.uri, self.tracking_uri), folder, path)

    def delete_artifacts(self, ref: ModelVersionRef, path: str) -> None:
        """Remove a folder inside a version's folder.

        Raises:
            RegistryError: The artifact store cannot delete, or must not.
        """
        place = self.location(ref)
        with self._writes(f"delete {path} of {ref}"):
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
