"""Files of a call, packed by content, and put where the call runs below a folder of its own.

A path `P` of one side is `room + P` on the other, so that what is said there of files is true here once the room is
struck out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from registry_export.cluster.messages import Parcel, SentFile
from registry_export.errors import ClusterError, ClusterUnavailableError, RegistryError
from registry_export.manifest import known_digest, sha256_of
from registry_export.registry import Blobs

_AT_ONCE = 8
"""Files on their way at a time, for each call."""

_TRIES, _PAUSE_S = 3, 0.5
"""A file system that is used as a store shows files that somebody else is about to write."""

_LEFT_OUT = ("__pycache__",)


class Post:
    """Brings files to a store, each content once, and fetches them. Safe to use from several threads.

    Args:
        blobs: Where they are kept.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._stored: set[str] = set()
        self._sending = tuple(threading.Lock() for _ in range(64))
        self._lock = threading.Lock()

    @property
    def used(self) -> bool:
        """Whether anything is stored there."""
        return bool(self._stored)

    def send(self, paths: Iterable[Path], root: str = "") -> Parcel:
        """Store files and folders with all that is in them.

        Args:
            paths: What to store; symbolic links among them lead nowhere but to each other.
            root: What their paths begin with here and not on the other side.

        Raises:
            ClusterError: The store refused; a ClusterUnavailableError where it did not answer.
        """
        files, folders = _collected([Path(path) for path in paths])
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            sent = tuple(executor.map(lambda path: self._send(path, root), files))
        return Parcel(sent, tuple(str(folder).removeprefix(root) for folder in folders))

    def _send(self, path: Path, root: str) -> SentFile:
        digest = known_digest(path)
        # One at a time: writing a file again would spoil it for whoever fetches it meanwhile.
        with self._sending[hash(digest) % len(self._sending)]:
            if not self._is_stored(digest):
                with_remedy(lambda: self.blobs.put(path, digest))
                self._note(digest)
        return SentFile(str(path).removeprefix(root), digest, path.stat().st_size)

    def _is_stored(self, digest: str) -> bool:
        with self._lock:
            return digest in self._stored

    def _note(self, digest: str) -> None:
        with self._lock:
            self._stored.add(digest)

    def fetch(self, sent: SentFile, destination: Path) -> None:
        """Fetch a file and check that it is the one that was sent.

        Raises:
            ClusterError: It is not, or the store refused; a ClusterUnavailableError where it did not answer.
        """
        for number in range(_TRIES):
            time.sleep(number * _PAUSE_S)
            destination.unlink(missing_ok=True)
            with_remedy(lambda: self.blobs.get(sent.sha256, destination))
            if destination.stat().st_size == sent.size_bytes and sha256_of(destination) == sent.sha256:
                self._note(sent.sha256)
                return
        destination.unlink(missing_ok=True)
        raise ClusterError(
            f"The file {sent.sha256} at {self.blobs.uri} does not have the content that its name stands for.",
            remedy="Let nobody but registry-export write there.",
        )

    def fetch_all(self, parcel: Parcel, within: Sequence[Path], most_bytes: int) -> None:
        """Fetch what a call has made to where the call was made.

        Args:
            parcel: The files.
            within: Where it might write.
            most_bytes: How much.

        Raises:
            ClusterError: As for `fetch`, or a path leads elsewhere, or it is too much.
        """
        if sum(sent.size_bytes for sent in parcel.files) > most_bytes:
            raise ClusterError(f"It left more files than the {most_bytes / 1e9:.1f} GB that are allowed.")
        for folder in parcel.folders:
            _own(folder, within).mkdir(parents=True, exist_ok=True)
        places = [(sent, _own(sent.path, within)) for sent in parcel.files]
        for _, place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_AT_ONCE) as executor:
            list(executor.map(lambda one: self.fetch(*one), places))


def with_remedy(call: Callable[[], None]) -> None:
    """Make a call to the store; what goes wrong is told as the cluster's."""
    try:
        call()
    except RegistryError as error:
        kind = ClusterUnavailableError if error.transient else ClusterError
        raise kind(
            f"{error.message.rstrip('.')}.",
            remedy="The worker and every Dask worker need the right to read and write at REGISTRY_EXPORT_BLOBS.",
        ) from error


def _own(path: str, within: Sequence[Path]) -> Path:
    """Return a path of an answer as it is here, if it is in one of the call's own folders."""
    parts = PurePosixPath(path).parts
    if ".." in parts or not any(Path(path).is_relative_to(folder) for folder in within):
        raise ClusterError(f"A Dask worker answered with a file that is not the call's own: {path!r}.")
    return Path(path)


def _collected(granted: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """List files and folders; a link counts as what it leads to if that was granted too."""
    files: dict[Path, None] = {}
    folders: dict[Path, None] = {}
    real = [path.resolve() for path in granted]
    for path in granted:
        if path.is_file():
            files[path] = None
        for folder, names, found in os.walk(path) if path.is_dir() else ():
            names[:] = [name for name in names if name not in _LEFT_OUT]
            folders[Path(folder)] = None
            for name in found:
                file = Path(folder, name)
                if file.is_file() and (not file.is_symlink() or _inside(file.resolve(), real)):
                    files[file] = None
    return list(files), list(folders)


def _inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def moved_in(value: Any, room: str, granted: Sequence[str]) -> Any:
    """Rewrite what a call says of its own files, and of the folders that they are in, to where they are in a room."""
    parents = {str(PurePosixPath(path).parent) for path in granted}

    def place(text: str) -> str:
        own = text in parents or any(text == path or text.startswith(f"{path}/") for path in granted)
        return f"{room}{text}" if own else text

    return _mapped(value, place)


def moved_out(value: Any, room: str) -> Any:
    """Strike a room out of all texts of an answer."""
    return _mapped(value, lambda text: text.replace(room, ""))


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from (name, *texts(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(name, change): _mapped(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(one, change) for one in value]
    return value
