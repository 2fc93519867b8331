"""What this machine has for us: cores and memory, as affinity and control groups leave them."""

from __future__ import annotations

from pathlib import Path

import psutil

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""A container's limit and what is used of it: version 2 of control groups, and version 1."""


def cores() -> int:
    """Return how many cores may be used: affinity, a container's quota and LOKY_MAX_CPU_COUNT are heeded."""
    import joblib

    return int(joblib.cpu_count())


def available_bytes() -> int:
    """Return the memory that could be given to processes now, in bytes; caches are counted as free."""
    free = int(psutil.virtual_memory().available)
    for limit, used in _GROUPS:
        limit_bytes, used_bytes = _number(Path(limit)), _number(Path(used))
        if limit_bytes is not None and used_bytes is not None:
            free = min(free, max(limit_bytes - used_bytes, 0))
    return free


def total_bytes() -> int:
    """Return the memory of the machine, or of the container, in bytes."""
    limits = [_number(Path(limit)) for limit, _ in _GROUPS]
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # no control group, or one without a limit (`max`)
