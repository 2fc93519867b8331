"""Landlock: a process gives up for good what it does not need of the file system, of TCP and of other processes.

The kernel's own interface (https://docs.kernel.org/userspace-api/landlock.html), since version 5.13. What a kernel does
not know yet is left out, and `abi` tells which walls stand.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls: the same on every architecture."""

_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_FIRST_RIGHTS = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_LATER_RIGHTS = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
"""No symbolic links, pipes, sockets or devices: who reads a folder afterwards must not be led out of it."""
_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
_OF_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule for a file, in place of a folder, may hold."""

_TCP = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets and signals: none to processes outside."""

TCP_ABI, SIGNALS_ABI = 4, 6
"""Versions from which the network and other processes are out of reach too."""


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Return the version of Landlock that the kernel has; 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def restrict(
    reads: Iterable[Path], writes: Iterable[Path], lists: Iterable[Path] = (), devices: Iterable[Path] = ()
) -> int:
    """Give up all but these paths, all of TCP, and signals to other processes, for this process and all it starts.

    Args:
        reads: Files and folders that may be read and executed from; what is not there is left out.
        writes: Folders that may be changed too.
        lists: Folders whose names may be listed, and of those below; Python looks for modules so.
        devices: Files that may be read, written and controlled.

    Returns:
        The version of Landlock that stands; 0: none, nothing is given up.

    Raises:
        OSError: The kernel has Landlock and refused.
    """
    version = abi()
    if not version:
        return 0
    rights = _FIRST_RIGHTS | sum(right for since, right in _LATER_RIGHTS.items() if version >= since)
    attributes = _Ruleset(rights, _TCP if version >= TCP_ABI else 0, _SCOPES if version >= SIGNALS_ABI else 0)
    size = 8 * (1 + (version >= TCP_ABI) + (version >= SIGNALS_ABI))
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.byref(attributes), size, 0))
    try:
        for paths, allowed in ((reads, _READ), (writes, _WRITE), (lists, _READ_DIR), (devices, _DEVICE)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        no_new_privileges()
        _checked(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def no_new_privileges() -> None:
    """Take away what a set-user-id program would gain; without it neither Landlock nor seccomp lets one in."""
    set_no_new_privileges = 38
    if ctypes.CDLL(None, use_errno=True).prctl(set_no_new_privileges, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not path.is_dir():
            allowed &= _OF_FILES
        rule = _PathBeneath(allowed, descriptor)
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
