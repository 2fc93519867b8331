"""The walls around a child, which runs what the author of a checkpoint wrote.

It reads what its toolchain and its call need, writes into its work folder alone, reaches no network and no other
process. Which walls stand depends on the system; their names are in the report, and a rule may demand them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry_export.isolation import landlock, seccomp
from registry_export.isolation.namespaces import be_counted_apart
from registry_export.model_setup import importable_in

LANDLOCK, SECCOMP, NETWORK = "landlock", "seccomp", "netns"

_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys", "/etc/alternatives", "/etc/fonts",
    "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types",
    "/etc/nsswitch.conf", "/etc/OpenCL", "/etc/passwd", "/etc/timezone", "/etc/vulkan",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
"""What programs need of a system to run at all: nothing of `/etc` that could be a secret, no home, no `/run`."""

_DEVICES = ("/dev/null", "/dev/dri", "/dev/dxg", "/dev/kfd")
_DEVICE_PREFIXES = ("nvidia", "nvhost", "nvmap", "nvgpu")
"""Of GPUs, also in Windows's Linux, on Jetsons, and AMD's."""
_PACKAGES = ("site-packages", "dist-packages")
_METADATA = (".dist-info", ".egg-info")
_STORES = ("/nix/store", "/gnu/store")

_OPEN_FILES = 4096


@dataclass(frozen=True)
class Room:
    """What a child may touch beside its toolchain.

    Attributes:
        reads: Files and folders that it may read; the names beside them may be listed.
        writes: Folders that it may write in.
        file_bytes: The largest file that it may write.
        cpu_s: Seconds of processor time that one of its processes may use.
        tasks: Processes and threads that it may have at a time, where they are counted apart from all others.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    file_bytes: int
    cpu_s: int
    tasks: int


def walls() -> tuple[str, ...]:
    """Name the walls that `enter` builds here: known beforehand, because who is behind them may say anything."""
    return (*([LANDLOCK] if landlock.abi() else []), *([SECCOMP] if seccomp.available() else []))


def enter(room: Room) -> None:
    """Give up, for this process and all it starts, whatever is outside a room.

    Raises:
        OSError: The system has a wall and refused to build it.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, room.file_bytes)
    _limit(resource.RLIMIT_CPU, room.cpu_s)
    if be_counted_apart():
        _limit(resource.RLIMIT_NPROC, room.tasks)
    own = [*map(Path, room.reads), *map(Path, room.writes)]
    landlock.restrict(
        reads=[*map(Path, _SYSTEM), *_of_python(), *map(Path, room.reads)],
        writes=map(Path, room.writes),
        lists={*(path.parent for path in own), *_projects()},
        devices=_devices(),
    )
    if seccomp.available():
        seccomp.restrict()


def left_open(standing: Iterable[str]) -> str:
    """Say what a set of walls does not keep out; empty when it keeps all out."""
    stand = set(standing)
    open_sides = []
    if LANDLOCK not in stand:
        open_sides.append("the worker's files")
    if SECCOMP not in stand:  # without a network there still are sockets that are files
        open_sides.append("sockets")
    return " and ".join(open_sides)


def reached_by_children(path: Path, reads: Iterable[Path] = ()) -> Path | None:
    """Return what of a child's room holds a file, which its code could then read; None where nothing does.

    Args:
        path: The file.
        reads: What calls name beside their own files.
    """
    place = path.resolve()
    rooms = [*map(Path, _SYSTEM), *_of_python(), *reads]
    return next((room for room in rooms if place.is_relative_to(room.resolve())), None)


def _limit(kind: int, wanted: int) -> None:
    """Lower a limit; one that is lower already stays."""
    value = min([wanted, *(limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY)])
    resource.setrlimit(kind, (value, value))


def _of_python() -> Iterator[Path]:
    """Yield where this interpreter's modules and libraries are, those of editable installations too."""
    yield from map(Path, {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).parent)})
    yield from map(Path, _STORES)
    projects = set(_projects())
    for folder in (Path(entry) for entry in sys.path if entry):
        if folder in projects:
            yield from importable_in(folder)
            yield from (entry for entry in _entries(folder) if entry.name.endswith(_METADATA))
            continue
        yield folder
        yield from (entry.resolve() for entry in _entries(folder) if entry.is_symlink())  # installed as links
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    yield from (Path(entry) for entry in libraries.split(os.pathsep) if entry)
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            yield from (Path(place) for place in getattr(module, "MAPPING", {}).values())


def _projects() -> Iterator[Path]:
    """Yield folders that Python imports from and that hold other things too: their names it must be able to list."""
    for folder in (Path(entry) for entry in sys.path if entry):
        if folder.is_dir() and not set(_PACKAGES) & set(folder.parts) and not folder.is_relative_to(sys.base_prefix):
            yield folder


def _entries(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.iterdir()


def _devices() -> Iterator[Path]:
    yield from map(Path, _DEVICES)
    yield from (entry for entry in Path("/dev").iterdir() if entry.name.startswith(_DEVICE_PREFIXES))
