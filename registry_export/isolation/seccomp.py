"""Seccomp: system calls that no converter needs, and that would lead out of the other walls, are refused.

A filter in the kernel's own form (https://docs.kernel.org/userspace-api/seccomp_filter.html): classic BPF over the
number of a system call and its arguments. A process is not killed for asking: it hears that it may not, that there is
no such call, or that all went well where nothing was done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from registry_export.isolation.landlock import no_new_privileges

_Numbers = tuple[int | None, int | None]
_Line = tuple[int, int, int, int]

_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_REFUSED: dict[str, _Numbers] = {
    # Any socket at all: those of databases and of container engines are files, of which Landlock does not ask.
    "socket": (41, 198),
    # Memory that outlives the process, or that is nobody's by the kernel's count.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Another process's memory.
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
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
}
"""Name -> number on x86_64 and on aarch64; None: it has none. They answer "Operation not permitted"."""

_UNKNOWN: dict[str, _Numbers] = {
    # Asynchronous twins of system calls, that no filter sees.
    "io_uring_setup": (425, 425),
    # Its flags are out of a filter's sight; libraries fall back to `clone`.
    "clone3": (435, 435),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
"""They answer that the kernel does not know them, and libraries do without."""

_FEIGNED: dict[str, _Numbers] = {
    # Rights, owners and times of any file that the worker owns: Landlock does not ask of these.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    # Priorities, of any process of the worker's user.
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
"""They do nothing and answer that all went well: who copies a file copies its rights and times too."""

_OF_OTHERS: dict[str, _Numbers] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
"""Feigned where they name another process than the caller (0)."""

_SOCKET_PAIR = (53, 199)
_DATAGRAM = 2
"""The kind of a pair of sockets that can still be sent to any address."""
_CLONE = (56, 220)
_NEW_NAMESPACES = 0x7E020000
"""Flags of `clone` that make namespaces, in which there is more to try."""

_X32 = 0x40000000

_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_ANY, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET, _SECOND_ARGUMENT_OFFSET = 0, 4, 16, 24
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SET_SECCOMP, _MODE_FILTER = 22, 2


def available() -> bool:
    """Say whether there is a filter for this machine: its kernel has them, and its numbers are known here."""
    if sys.platform != "linux" or platform.machine() not in _AUDIT_ARCHITECTURES or sys.maxsize < 1 << 32:
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
    lines: list[_Line] = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),  # another architecture's numbers mean other calls
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32 if machine == "x86_64" else 0xFFFFFFFF),
        (_RETURN, 0, 0, refuse),
    ]
    for calls, answer in ((_REFUSED, refuse), (_UNKNOWN, _ERRNO | errno.ENOSYS), (_FEIGNED, _ERRNO)):
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                lines += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    for numbers in _OF_OTHERS.values():
        same = [(_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET), (_JUMP_IF_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO)]
        lines += _where(numbers[column], same)
    datagram = [(_LOAD, 0, 0, _SECOND_ARGUMENT_OFFSET), (_AND, 0, 0, 0xF), (_JUMP_IF_EQUAL, 0, 1, _DATAGRAM)]
    lines += _where(_SOCKET_PAIR[column], [*datagram, (_RETURN, 0, 0, refuse)])
    inside = [(_LOAD, 0, 0, _FIRST_ARGUMENT_OFFSET), (_JUMP_IF_ANY, 0, 1, _NEW_NAMESPACES), (_RETURN, 0, 0, refuse)]
    lines += _where(_CLONE[column], inside)
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _where(number: int | None, lines: list[_Line]) -> list[_Line]:
    """Run lines for one system call alone; they are its last word but for what they refuse."""
    return [(_JUMP_IF_EQUAL, 0, len(lines) + 1, number or 0), *lines, (_RETURN, 0, 0, _ALLOW)]
