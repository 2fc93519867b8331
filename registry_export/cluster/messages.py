"""What goes through the scheduler: JSON texts of these records, read with their types checked."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry_export import errors
from registry_export.errors import ChildError, RegistryExportError
from registry_export.format import Toolchain
from registry_export.isolation import Limits, Outcome
from registry_export.manifest import tool_versions


@dataclass(frozen=True)
class SentFile:
    """A file on its way: its absolute path where the call was made, and what is in it."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Parcel:
    """Files and folders, empty ones too, by their absolute paths where the call was made."""

    files: tuple[SentFile, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Terms:
    """What must hold where a step runs, so that the report says what really ran.

    Attributes:
        tools: Versions by package: of a package that both sides have, both have this one.
        machine: System and architecture; empty: any.
        walls: Those that the export was told stand around a checkpoint.
    """

    tools: Mapping[str, str]
    machine: str = ""
    walls: tuple[str, ...] = ()

    def broken_by(self, other: Terms) -> str:
        """Say why a machine with other terms cannot run the step; empty where it can."""
        unlike = [n for n, version in self.tools.items() if other.tools.get(n, version) != version]
        if unlike:
            told = ", ".join(f"{name} {other.tools[name]} in place of {self.tools[name]}" for name in unlike)
            return f"it has {told}"
        if self.machine and other.machine != self.machine:
            return f"it is {other.machine}, not {self.machine}"
        lacking = [wall for wall in self.walls if wall not in other.walls]
        return f"it has no {', '.join(lacking)} around a checkpoint" if lacking else ""


def terms_here(walls: tuple[str, ...] = ()) -> Terms:
    """Return what holds on this machine."""
    return Terms(tool_versions(), f"{platform.system()} {platform.machine()}", walls)


@dataclass(frozen=True)
class Account:
    """What a Dask worker says of itself: what holds there, and the memory in bytes that one child may use."""

    terms: Terms
    memory: int


@dataclass(frozen=True)
class Task:
    """One call, as `ChildPool.call` takes it, with the files that it may read.

    Attributes:
        store: URI of the folder in which the files are, and to which those that it makes go.
    """

    store: str
    terms: Terms
    toolchain: Toolchain
    function: str
    arguments: Any
    work: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    limits: Limits
    parcel: Parcel


@dataclass(frozen=True)
class Failure:
    """An error of the tree: its class's name, what it says, and the text of what caused it."""

    type: str
    message: str
    remedy: str = ""
    step: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a task: an outcome with the files that were made, a failure, or a refusal to begin.

    Attributes:
        where: The Dask worker that it is from.
        letter: Digest of a stored file that holds the text of this record in its place: it was too long.
    """

    where: str
    outcome: Outcome | None = None
    made: Parcel = field(default_factory=Parcel)
    failure: Failure | None = None
    refusal: str = ""
    letter: str = ""


def failure_of(error: RegistryExportError) -> Failure:
    """Describe an error so that it can be raised elsewhere."""
    cause = str(error.__cause__) if error.__cause__ is not None else ""
    return Failure(type(error).__name__, error.message, error.remedy, error.step, cause)


def raised(failure: Failure) -> RegistryExportError:
    """Build the error that a failure stands for."""
    kind = getattr(errors, failure.type, None)
    if not (isinstance(kind, type) and issubclass(kind, RegistryExportError)):
        kind = ChildError
    error = kind(failure.message, remedy=failure.remedy, step=failure.step)
    if failure.cause:
        error.__cause__ = ChildError(failure.cause)
    return error
