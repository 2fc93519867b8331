"""Whoever runs functions in children: on this machine, or on those of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from registry_export.costs import StepCost
from registry_export.format import Toolchain
from registry_export.isolation import Limits, Outcome


class Children(Protocol):
    """Whoever runs functions in children: a pool, or one that waits for a place first."""

    @property
    def limits(self) -> Limits:
        """What a child may use where a call says nothing else."""
        ...

    def call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> Outcome:
        """Run a function in a fresh child, as `ChildPool.call` does."""
        ...


class Pool(Children, Protocol):
    """Where the children of exports run: `ChildPool` on this machine, `ClusterPool` on a cluster.

    Attributes:
        cancelled: Set when the running calls are to end.
        killed: How many children of this machine were ended at a limit, by its name.
    """

    cancelled: threading.Event
    killed: dict[str, int]

    @property
    def cores(self) -> int:
        """How many children may work at a time."""
        ...

    def available_bytes(self) -> int:
        """Return the memory in bytes that children may take together."""
        ...

    def call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
        expected: StepCost | None = None,
    ) -> Outcome:
        """Run a function in a fresh child, as `ChildPool.call` does.

        `expected` says what the call takes at its peak, and how long the longest chain takes that begins with it.
        """
        ...

    def start(self, toolchain: Toolchain) -> object:
        """Start a toolchain's warm parent where that is done ahead of a call."""
        ...

    def runs(self, toolchain: Toolchain) -> bool:
        """Whether a call need not wait for the start of a toolchain's warm parent here."""
        ...

    def parents(self) -> tuple[tuple[str, int], ...]:
        """Return the toolchain and the process number of every warm parent that runs on this machine."""
        ...

    def check(self) -> None:
        """See that calls can be taken now, before a job is claimed that would only fail.

        Raises:
            ClusterError: They cannot.
        """
        ...

    def walls(self, toolchain: Toolchain) -> tuple[str, ...]:
        """Name the walls that stand around a toolchain's children."""
        ...

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        """Start warm parents in the background."""
        ...

    def stop_idle(self, seconds: float) -> None:
        """Stop warm parents that have not been used for so long."""
        ...

    def sweep(self) -> None:
        """Remove what was left behind by those who were killed, where files are brought for steps; without a wait."""
        ...

    def cancel(self) -> None:
        """Make every running and future call raise `ExportCancelledError`."""
        ...

    def renew(self) -> None:
        """Take the calls of the next export: what was cancelled, or kept for the one before, is over."""
        ...

    def kill(self) -> None:
        """End every process of ours without a word, before this one is left."""
        ...

    def close(self) -> None:
        """End all that runs, and leave nothing behind."""
        ...
