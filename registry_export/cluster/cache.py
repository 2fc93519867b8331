"""Files that calls on one Dask worker have been given, kept by content: a checkpoint is fetched once for all steps."""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from registry_export.cluster.messages import Parcel, SentFile
from registry_export.errors import ConversionError

_AT_ONCE = 8

_State = tuple[int, int]
"""Size and time of the last change: what shows that somebody has written into a file."""


@dataclass
class BlobCache:
    """A folder of files by digest; the least recently used ones go when they are too many. Safe for many threads.

    Files are lent as links: one that is forgotten stays with the calls that have it.

    Attributes:
        folder: Its own; on the file system on which the calls' rooms are.
        most_bytes: How much is kept.
    """

    folder: Path
    most_bytes: int
    _kept: OrderedDict[str, _State] = field(default_factory=OrderedDict)
    _fetching: tuple[threading.Lock, ...] = field(default_factory=lambda: tuple(threading.Lock() for _ in range(64)))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def furnish(
        self, parcel: Parcel, room: Path, copied: Sequence[str], fetch: Callable[[SentFile, Path], None]
    ) -> Lent:
        """Put a parcel's files and folders into a room.

        Args:
            parcel: What goes there.
            room: An empty folder.
            copied: Folders in which the call may write: its files there are its own.
            fetch: Fetches a file that is not here.

        Raises:
            ClusterError: As `fetch`.
        """
        for folder in parcel.folders:
            Path(f"{room}{folder}").mkdir(parents=True, exist_ok=True)

        def put(sent: SentFile) -> tuple[Path, SentFile] | None:
            place = Path(f"{room}{sent.path}")
            place.parent.mkdir(parents=True, exist_ok=True)
            self._lend(sent, fetch, place)
            if not any(sent.path.startswith(f"{folder}/") for folder in copied):
                return place, sent
            own = place.with_name(f".{place.name}.own")
            shutil.copyfile(place, own)
            own.replace(place)
            return None

        with ThreadPoolExecutor(_AT_ONCE) as executor:
            lent = [one for one in executor.map(put, parcel.files) if one is not None]
        return Lent(self, lent)

    def _lend(self, sent: SentFile, fetch: Callable[[SentFile, Path], None], place: Path) -> None:
        path = self.folder / sent.sha256
        # One at a time fetches a file; two files may share a lock, which costs a wait and saves a register of them.
        with self._fetching[hash(sent.sha256) % len(self._fetching)]:
            with self._lock:
                known = self._kept.get(sent.sha256)
                if known is not None and known == _state(path):
                    self._kept.move_to_end(sent.sha256)
                    os.link(path, place)
                    return
            fetch(sent, path)
            path.chmod(0o444)
            with self._lock:
                os.link(path, place)
                self._kept[sent.sha256] = _state(path) or (0, 0)
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > self.most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, digest: str) -> None:
        self._kept.pop(digest, None)
        (self.folder / digest).unlink(missing_ok=True)

    def intact(self, place: Path, sent: SentFile) -> bool:
        """Whether nobody has written into a file that was lent; it is forgotten where somebody has."""
        with self._lock:
            known = self._kept.get(sent.sha256)
            found = _state(place)
            changed = found is None or found[0] != sent.size_bytes or (known is not None and known != found)
            if changed:
                self._drop(sent.sha256)
        return not changed


@dataclass(frozen=True)
class Lent:
    """Files of the cache in a room."""

    cache: BlobCache
    files: Sequence[tuple[Path, SentFile]]

    def check(self) -> None:
        """Look whether a call has left its inputs as they were.

        Raises:
            ConversionError: It has not.
        """
        changed = [sent for place, sent in self.files if not self.cache.intact(place, sent)]
        if changed:
            raise ConversionError("The converter changed its own input.")


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
