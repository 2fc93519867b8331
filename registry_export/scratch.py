"""Temporary folders that do not outlive their process for long: each is locked while it is in use.

A process that is killed removes nothing. Its locks go with it, though, whatever killed it and in whichever container it
ran; process ids are given anew, and mean nothing in another container. So whoever gets the lock of a folder may remove
it: `sweep` does.

A folder is `registry-export-????????/`, with the lock and, as the part that is handed out, `files/` in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from registry_export.errors import full_disk

_PREFIX = "registry-export-"
_NAME = re.compile(rf"\.?{_PREFIX}[a-z0-9_]{{8}}")
_LOCK, _FILES = ".lock", "files"
_TRIES = 100

_log = logging.getLogger(__name__)


class Scratch:
    """One temporary folder, kept until `remove` or until this process ends and another one sweeps.

    Args:
        within: Where it is made; None: where temporary folders are (`TMPDIR`).
        hidden: Whether its name begins with a dot.

    Attributes:
        path: The folder to work in; empty, and nobody else's.

    Raises:
        DiskFullError: There is no space for it.
        OSError: It cannot be made there.
    """

    def __init__(self, within: Path | None = None, *, hidden: bool = False) -> None:
        prefix = f".{_PREFIX}" if hidden else _PREFIX
        self._lock: int | None = None
        for _ in range(_TRIES):
            self._root = _made(prefix, within)
            self.path = self._root / _FILES
            try:
                self._lock = _locked(self._root)
                if self._lock is not None:
                    self.path.mkdir(mode=0o700)
                    break
            except OSError as error:
                self.remove()
                remove_tree(self._root)
                raise full_disk(error) or error from error.__cause__
        else:
            raise FileNotFoundError(f"What is made in {self._root.parent} is removed at once.")
        _held.add(self)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        _held.discard(self)
        _clear(self._root)
        os.close(lock)


_held: set[Scratch] = set()


def remove_held() -> None:
    """Remove every folder of this process, before it is left without any further word."""
    for scratch in list(_held):
        scratch.remove()


def sweep(within: Path | None = None) -> int:
    """Remove the folders that processes of this user have left on this machine when they were killed.

    Args:
        within: Where to look; None: where temporary folders are (`TMPDIR`).

    Returns:
        How many there were. What cannot be looked at or locked is left alone.
    """
    swept = 0
    for folder in list(_candidates(Path(within or tempfile.gettempdir()))):
        with contextlib.suppress(OSError):
            swept += _swept(folder)
    if swept:
        _log.info("removed %d temporary folders of processes that were killed", swept)
    return swept


def _clear(root: Path) -> None:
    """Remove a folder whose lock is ours, the lock last: what somebody still writes into is left to the next sweep."""
    remove_tree(root / _FILES)
    if not (root / _FILES).exists():
        remove_tree(root)


def remove_tree(folder: Path) -> None:
    """Remove a folder that children wrote in: one that is too deep for Python, or has lost its rights, too."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], check=False, capture_output=True)


def _made(prefix: str, within: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=within))
    except OSError as error:
        raise full_disk(error) or error from error.__cause__


def _locked(root: Path) -> int | None:
    """Lock a folder that was just made; None where a sweep was quicker, and has removed it."""
    try:
        lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a disk without locks: nobody can sweep there either
        fcntl.flock(lock, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock), (root / _LOCK).stat()):
            return lock
    os.close(lock)
    return None


def _candidates(within: Path) -> Iterator[Path]:
    try:
        with os.scandir(within) as listing:
            for entry in listing:
                if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                    continue
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    yield Path(entry.path)
    except OSError:
        return


def _swept(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        folder.rmdir()  # killed before there was a lock; whatever is not empty is not one of ours
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clear(folder)
    finally:
        os.close(lock)
    return not folder.exists()
