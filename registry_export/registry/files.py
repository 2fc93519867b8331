"""Moving files between an artifact store and local folders, without trusting the store's listing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry_export.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def open_repository(uri: str, tracking_uri: str) -> ArtifactRepository:
    """Open the artifact store behind a URI; `mlflow-artifacts:` is served by the tracking server."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if uri.startswith("mlflow-artifacts:") and not tracking_uri.startswith(("http://", "https://")):
        raise RegistryError(
            f"The files at {uri} are served by the tracking server, and {tracking_uri.partition(':')[0]} is none.",
            remedy="Set MLFLOW_TRACKING_URI to the server's http:// or https:// address.",
        )
    return get_artifact_repository(uri, tracking_uri=tracking_uri)


def list_folder(repository: ArtifactRepository, path: str = "") -> tuple[FileInfo, ...]:
    """List one folder.

    Raises:
        RegistryError: A listed path leaves the folder.
    """
    entries = tuple(repository.list_artifacts(path or None))
    for entry in entries:
        parts = PurePosixPath(entry.path).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in entry.path or "\0" in entry.path:
            raise RegistryError(f"The artifact store lists a path that leaves its folder: {entry.path!r}.")
    return entries


def walk(repository: ArtifactRepository, entries: Iterable[FileInfo]) -> tuple[FileInfo, ...]:
    """List every file at and below some entries, sorted; each path is checked as in `list_folder`."""
    files: list[FileInfo] = []
    waiting = list(entries)
    while waiting:
        entry = waiting.pop()
        if entry.is_dir:
            waiting.extend(list_folder(repository, entry.path))
        else:
            files.append(entry)
    return tuple(sorted(files, key=lambda entry: entry.path))


def fetch(repository: ArtifactRepository, entries: Iterable[FileInfo], destination: Path) -> None:
    """Download listed files and folders to the same relative paths under `destination`.

    Every listing is checked before the first byte is written.
    """
    entries = tuple(entries)
    walk(repository, entries)
    destination.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        # Whole folders at once: the store then fetches their files in parallel.
        repository.download_artifacts(entry.path, dst_path=str(destination))
