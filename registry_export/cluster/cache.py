"""Files that calls on one Dask worker have been given, kept by content: a checkpoint is fetched once for all steps."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from registry_export.cluster.messages import Parcel, SentFile
from registry_export.errors import ConversionError
from registry_export.manifest import sha256_of

_AT_ONCE = 8
_GONE = (0, 0, 0, 0)
_TICK_S = 0.02
"""The coarsest clock of a file system: what is written to a file later than that after its link shows in its times."""

_State = tuple[int, int, int, int]
"""Inode, size, and the times of the last change of content and of the file itself: the latter nobody can set."""


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
            self.take_back(place, sent)
            own.replace(place)
            return None

        with ThreadPoolExecutor(_AT_ONCE) as executor:
            lent = [one for one in executor.map(put, parcel.files) if one is not None]
        time.sleep(_TICK_S)
        return Lent(self, lent)

    def _lend(self, sent: SentFile, fetch: Callable[[SentFile, Path], None], place: Path) -> None:
        path = self.folder / sent.sha256
        with self._turn(sent):
            if self._link(sent, path, place):
                return
            fetch(sent, path)
            path.chmod(0o444)
            with self._lock:
                os.link(path, place)
                self._kept[sent.sha256] = _state(path) or _GONE
                self._forget_oldest()

    def _turn(self, sent: SentFile) -> threading.Lock:
        """Return what lets one at a time work on a file; two files may share it, which costs a wait."""
        return self._fetching[hash(sent.sha256) % len(self._fetching)]

    def _link(self, sent: SentFile, path: Path, place: Path) -> bool:
        """Lend a file that is here and has the content that was fetched; else False, and it is here no more."""
        with self._lock:
            known, found = self._kept.get(sent.sha256), _state(path)
            if known is None or found is None:
                return False
            os.link(path, place)
            self._kept[sent.sha256] = _state(path) or _GONE  # a link is a change of the file, too
            self._kept.move_to_end(sent.sha256)
        if known == found or _has_content(place, sent):
            return True
        with self._lock:
            self._drop(sent.sha256)
        place.unlink()
        return False

    def _forget_oldest(self) -> None:
        while len(self._kept) > 1 and sum(state[1] for state in self._kept.values()) > self.most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, digest: str) -> None:
        self._kept.pop(digest, None)
        (self.folder / digest).unlink(missing_ok=True)

    def take_back(self, place: Path, sent: SentFile) -> bool:
        """Take a file that was lent out of a room.

        Returns:
            Whether nobody has written into it; it is forgotten where somebody has.
        """
        with self._turn(sent):
            found = _state(place)
            with self._lock:
                known = self._kept.get(sent.sha256)
            # Whoever has only linked it has changed the file, but not what is in it.
            intact = found is not None and (found == known or _has_content(place, sent))
            with self._lock:
                unchanged = _state(place) == found
                place.unlink(missing_ok=True)
                now = _state(self.folder / sent.sha256)
                if not intact:
                    self._drop(sent.sha256)
                elif unchanged and sent.sha256 in self._kept and now is not None and now[0] == (found or _GONE)[0]:
                    self._kept[sent.sha256] = now
        return intact


@dataclass(frozen=True)
class Lent:
    """Files of the cache in a room."""

    cache: BlobCache
    files: Sequence[tuple[Path, SentFile]]

    def take_back(self) -> None:
        """Take them out of the room, and look whether a call has left them as they were.

        Raises:
            ConversionError: It has not.
        """
        changed = [sent for place, sent in self.files if not self.cache.take_back(place, sent)]
        if changed:
            raise ConversionError("The converter changed its own input.")


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _has_content(path: Path, sent: SentFile) -> bool:
    try:
        return path.stat().st_size == sent.size_bytes and sha256_of(path) == sent.sha256
    except OSError:
        return False
