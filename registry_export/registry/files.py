"""Moving files between an artifact store and local folders, without trusting the store's listing."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry_export.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_AT_ONCE = 8
"""Calls to a store at the same time."""
_SMALL = 1 << 20
"""Bytes of a file up to which storing it is a matter of the call, not of its bytes."""


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
    level = tuple(entries)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while level:
            files += [entry for entry in level if not entry.is_dir]
            folders = [entry.path for entry in level if entry.is_dir]
            level = tuple(chain.from_iterable(pool.map(partial(list_folder, repository), folders)))
    return tuple(sorted(files, key=lambda entry: entry.path))


def store(repository: ArtifactRepository, folder: Path, path: str) -> None:
    """Upload a local folder's files under a path, the large ones one after another and the small ones side by side."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    is_small = {file: file.stat().st_size <= _SMALL for file in files}

    def upload(file: Path) -> None:
        place = (PurePosixPath(path) / file.parent.relative_to(folder)).as_posix()
        repository.log_artifact(str(file), place if place != "." else None)

    for file in files:
        if not is_small[file]:
            upload(file)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        uploads = [pool.submit(upload, file) for file in files if is_small[file]]
    for one in uploads:
        one.result()


def fetch(repository: ArtifactRepository, entries: Iterable[FileInfo], destination: Path) -> None:
    """Download listed files and folders to the same relative paths under `destination`.

    Every listing is checked before the first byte is written, and what was checked is what is fetched.
    """
    paths = [entry.path for entry in walk(repository, entries)]
    for folder in {(destination / path).parent for path in (*paths, "any")}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # The method that every store has to have: `download_artifacts` lists the folder of each file once more.
        fetched = [pool.submit(repository._download_file, path, str(destination / path)) for path in paths]
    for one in fetched:
        one.result()
