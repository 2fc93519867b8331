"""Namespaces: a process without a network, and without the powers of whoever started it.

A new user namespace takes from root what makes it root (it may no longer read others' files, or signal their
processes), and lets anyone else have a network namespace of their own, in which there is nothing to reach.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_NEW_USER, _NEW_IPC, _NEW_NETWORK = 0x10000000, 0x08000000, 0x40000000
_SUBREAPER = 36


def leave_the_network() -> bool:
    """Move this process, which has one thread, and all it will start into namespaces of their own.

    Returns:
        Whether that is so: many systems and containers do not let users make namespaces.
    """
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError:
            continue  # without a map it is nobody there, which reads and writes its own files all the same
    return True


def adopt_orphans() -> None:
    """Become the parent of every descendant that is orphaned, so that none escapes by changing its group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
