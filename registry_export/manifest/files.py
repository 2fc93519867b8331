"""Digests of files and of sets of files."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from registry_export.entities import FileRecord
from registry_export.errors import ArtifactError

_CHUNK_BYTES = 1024 * 1024
_SURE_NS = 100_000_000
"""Nanoseconds after which a file system gives a file another time than it has now; the coarsest ticks are 10 ms."""
_MOST_KNOWN = 4096

_lock = threading.Lock()
_digests: dict[tuple[int, int, int, int], str] = {}


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
        records.append(FileRecord(relative, known_digest(path), path.stat().st_size))
    return tuple(sorted(records, key=lambda record: record.path))


def combined_digest(records: Sequence[FileRecord]) -> str:
    r"""Digest a set of files: SHA-256 of the UTF-8 text of one line `<hex>  <path>` for each file.

    The lines are sorted by code point, and each one, the last included, ends in a newline: the output of
    `find . -type f -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum`.
    """
    lines = sorted(f"{record.sha256}  {record.path}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def known_digest(path: Path) -> str:
    """Return a file's digest, computed once: under another name, or when it is asked for again, it is the same file.

    What counts as the same is what the file system says of it. A digest is remembered only when the last write is
    so long ago that another one would show in the file's time.
    """
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    with _lock:
        known = _digests.get(key)
    if known is not None:
        return known
    digest = sha256_of(path)
    if time.time_ns() - state.st_mtime_ns > _SURE_NS:
        with _lock:
            while len(_digests) >= _MOST_KNOWN:
                del _digests[next(iter(_digests))]
            _digests[key] = digest
    return digest


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hex; the file is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
