"""Namespaces: a process without a network, and without the powers of whoever started it.

A new user namespace takes from root what makes it root (it may no longer read others' files, or signal their
processes), and lets anyone else have a network namespace of their own, in which there is nothing to reach.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

_NEW_USER, _NEW_IPC, _NEW_NETWORK = 0x10000000, 0x08000000, 0x40000000
_SUBREAPER = 36


def leave_the_network() -> bool:
    """Move this process, which has one thread, and all it will start into namespaces of their own.

    Returns:
        Whether that is so: many systems and containers do not let users make namespaces.
    """
    return _enter_own(_NEW_USER | _NEW_NETWORK | _NEW_IPC)


def be_counted_apart() -> bool:
    """Have the kernel count the processes of this one, which has one thread, and of all it will start, by themselves.

    `RLIMIT_NPROC` is compared with all that a user runs, and since Linux 5.14 with what he runs in the same user
    namespace: in one of its own, with what is started from here.

    Returns:
        Whether that is so. What root runs is counted and never refused.
    """
    return _counts_by_namespace() and _enter_own(_NEW_USER)


def _counts_by_namespace() -> bool:
    found = re.match(r"(\d+)\.(\d+)", platform.release()) if sys.platform == "linux" else None
    return found is not None and (int(found[1]), int(found[2])) >= (5, 14)


def _enter_own(kinds: int) -> bool:
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(kinds) != 0:
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
