"""Digests of files and of sets of files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from registry_export.entities import FileRecord
from registry_export.errors import ArtifactError

_CHUNK_BYTES = 1024 * 1024


def file_records(folder: Path, exclude: Collection[str] = ()) -> tuple[FileRecord, ...]:
    """Digest every file below a folder.

    Args:
        folder: The folder.
        exclude: Paths relative to it that are left out.

    Returns:
        Records sorted by path; paths have forward slashes.

    Raises:
        ArtifactError: A symbolic link is among them, or something that is neither file nor folder.
    """
    records = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ArtifactError(f"{relative} is a symbolic link; an artifact consists of files alone.")
        if path.is_dir() or relative in exclude:
            continue
        if not path.is_file():
            raise ArtifactError(f"{relative} is not a regular file.")
        records.append(FileRecord(relative, sha256_of(path), path.stat().st_size))
    return tuple(sorted(records, key=lambda record: record.path))


def combined_digest(records: Sequence[FileRecord]) -> str:
    r"""Digest a set of files: SHA-256 of the UTF-8 text of one line `<hex>  <path>` for each file.

    The lines are sorted by code point, and each one, the last included, ends in a newline: the output of
    `find . -type f -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum`.
    """
    lines = sorted(f"{record.sha256}  {record.path}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex; the file is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
