"""What crosses the border between the supervisor and its children: JSON, read with its types checked.

A warm parent is started with a `Preparation`, and says that it is `Ready`. The supervisor connects to its
socket once for each call and writes one `Call` line. The parent answers with a `Started` line, and, when
the child has been waited for, with an `Ended` line.
The child itself writes an `Answer` into its work folder; what a child says is data, never code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry_export.isolation.sandbox import Room

ANSWER_FILE = ".answer.json"
LOG_FILE = ".child.log"
ANSWER_BYTES = 64 * 1024 * 1024
"""A larger answer is refused: answers hold facts, arrays travel in files."""


@dataclass(frozen=True)
class Preparation:
    """What a warm parent does before its first call.

    Attributes:
        late: Modules that children would import; one that cannot be imported is left to them.
        modules: The toolchain's modules; one that cannot be imported is the parent's end.
        exercises: Functions (`package.module:name`) that are called without arguments; one that fails is told of.
    """

    late: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    exercises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A warm parent takes calls.

    Attributes:
        seconds: What its start took.
        resident_bytes: Its memory, of which its children share what they do not change.
        threads: Its threads; only one survives a fork.
        problems: Why exercises failed.
        walls: Names of the walls that stand around its children.
    """

    seconds: float
    resident_bytes: int
    threads: int
    problems: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One function to run in a fresh child.

    Attributes:
        function: `package.module:name`.
        arguments: Its only argument, as JSON.
        work: The child's private folder: its working folder, home and folder for temporary files.
        data_bytes: Limit on the memory that the child may allocate on top of what it inherits.
        room: What it may touch beside its toolchain.
    """

    function: str
    arguments: Mapping[str, Any]
    work: str
    data_bytes: int | None
    room: Room


@dataclass(frozen=True)
class Started:
    """The child's process id, which is its process group's too."""

    pid: int


@dataclass(frozen=True)
class Ended:
    """The child's wait status (`os.waitstatus_to_exitcode`), its peak memory, and its CPU seconds on all cores."""

    exit_code: int
    peak_bytes: int
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """An exception of a child: the class in `registry_export.errors`, or any other class's name."""

    type: str
    message: str
    remedy: str = ""
    step: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Answer:
    """What a child's function returned or raised, the warnings on the way, and the modules that its parent had not."""

    value: Any = None
    failure: Failure | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)
    imported: tuple[str, ...] = field(default_factory=tuple)
