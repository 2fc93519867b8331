"""What a child leaves behind is data: plain files in its own folders, and nothing that leads elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from registry_export.errors import ChildError

_DEEPEST = 64


def check_leavings(folders: Sequence[Path], most_bytes: int | None = None) -> None:
    """Refuse what a reader would be led astray by, wait for, or drown in.

    Args:
        folders: Where it wrote.
        most_bytes: How much its files may pretend to hold together; a file with holes takes no disk.

    Raises:
        ChildError: There is a symbolic link, a pipe, a socket or a device; or far too much.
    """
    total = 0
    for name, found in entries(folders):
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ChildError(f"It left something that is no plain file: {name}.")
        total += found.st_size
    if most_bytes is not None and total > most_bytes:
        raise ChildError(f"It left files of {total / 1e9:.1f} GB; {most_bytes / 1e9:.1f} GB are allowed.")


def entries(folders: Sequence[Path]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below some folders, by name.

    Raises:
        ChildError: Folders lie in folders without end, or one cannot be looked into.
    """
    waiting = [(str(folder), 0) for folder in folders]
    while waiting:
        path, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ChildError(f"It made folders in folders, more than {_DEEPEST} deep.")
        try:
            with os.scandir(path) as listing:
                for entry in listing:
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield entry.name, found
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue  # it still works there
        except OSError as error:
            raise ChildError(f"It left a folder that cannot be looked into: {error.strerror}.") from error


def check_within(paths: Iterable[str], folders: Sequence[Path]) -> None:
    """Refuse paths in a child's answer that are not in its own folders.

    Args:
        paths: What it answered; empty ones are none.
        folders: Where it might write, and what it was given to read.

    Raises:
        ChildError: One leads elsewhere.
    """
    own = [folder.resolve() for folder in folders]
    for path in filter(None, paths):
        found = Path(path).resolve()
        if not any(found.is_relative_to(folder) for folder in own):
            raise ChildError(f"It answered with a path that is not its own: {path!r}.")
