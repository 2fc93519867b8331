"""The same bytes under another name: a link where the file system has one, a copy where not.

For files that are written once and replaced whole, never changed in place: what is done to one name would be done
to the other.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_CLONE = 0x40049409
"""Linux's FICLONE: let a file share the blocks of another until either is changed."""


def link_file(source: Path, target: Path) -> None:
    """Give a file another name; nothing is copied where that can be done without.

    Args:
        source: The file; a symbolic link counts as what it points to.
        target: The other name, in a folder that exists; a file of that name is replaced.

    Raises:
        OSError: Neither a link nor a copy could be made.
    """
    source = source.resolve()
    if target.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; on a file system that can, the copy shares the bytes until either is changed.

    For files whose readers refuse a second name, as ONNX's do.
    """
    if not _cloned(source, target):
        shutil.copyfile(source, target)


def _cloned(source: Path, target: Path) -> bool:
    """Share the source's blocks; say whether the file system could."""
    if sys.platform != "linux":
        return False
    import fcntl

    with source.open("rb") as given, target.open("wb") as made:
        try:
            fcntl.ioctl(made.fileno(), _CLONE, given.fileno())
        except OSError:
            return False
    return True
