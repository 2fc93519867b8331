"""Seccomp: system calls that no converter needs, and that would lead out of the other walls, are refused.

A filter in the kernel's own form (https://docs.kernel.org/userspace-api/seccomp_filter.html): classic BPF over the
number of a system call and its arguments. What is refused answers "Operation not permitted"; a process is not
killed for asking.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from registry_export.isolation.landlock import no_new_privileges

_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_REFUSED = {
    # Any socket at all: those of databases and of container engines are files, of which Landlock does not ask.
    "socket": (41, 198),
    # Asynchronous twins of system calls, that no filter sees.
    "io_uring_setup": (425, 425),
    # Another process's memory, and its limits.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # The system's own state.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
}
"""Name -> number on x86_64 and on aarch64."""

_LIMITS_OF_OTHERS = (302, 261)
"""`prlimit64`, refused where it names another process than the caller (0)."""

_X32 = 0x40000000

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SET_SECCOMP, _MODE_FILTER = 22, 2


def available() -> bool:
    """Say whether there is a filter for this machine: its kernel has them, and its numbers are known here."""
    if sys.platform != "linux" or platform.machine() not in _AUDIT_ARCHITECTURES:
        return False
    ctypes.set_errno(0)
    # Without a program the kernel says "bad address" where it knows the call, and "invalid" where it does not.
    _prctl(_SET_SECCOMP, _MODE_FILTER, None)
    return ctypes.get_errno() == errno.EFAULT


def restrict() -> None:
    """Put the filter on this process and all it starts, for good.

    Raises:
        OSError: The kernel refused.
    """
    program = _program(platform.machine())
    no_new_privileges()
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if _prctl(_SET_SECCOMP, _MODE_FILTER, header) != 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _prctl(what: int, mode: int, program: bytes | None) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(what, mode, program, 0, 0))


def _program(machine: str) -> bytes:
    column = list(_AUDIT_ARCHITECTURES).index(machine)
    refuse = _ERRNO | errno.EPERM
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),  # another architecture's numbers mean other calls
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32 if machine == "x86_64" else 0xFFFFFFFF),
        (_RETURN, 0, 0, refuse),
    ]
    for numbers in _REFUSED.values():
        lines += [(_JUMP_IF_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, refuse)]
    lines += [
        (_JUMP_IF_EQUAL, 0, 3, _LIMITS_OF_OTHERS[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, refuse),
    ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
