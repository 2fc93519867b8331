"""What a child leaves behind is data: plain files in its own folders, and nothing that leads elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from registry_export.errors import ChildError


def check_leavings(folders: Sequence[Path]) -> None:
    """Refuse what a reader would be led astray by, or wait for.

    Raises:
        ChildError: There is a symbolic link, a pipe, a socket or a device.
    """
    for folder in folders:
        for at, subfolders, names in os.walk(folder):
            for path in (Path(at, name) for name in (*subfolders, *names)):
                mode = path.lstat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise ChildError(f"It left something that is no plain file: {path.name}.")


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
