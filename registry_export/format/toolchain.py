"""What a child needs before it is given a checkpoint: modules, an environment, perhaps a Python of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_export.errors import ConfigurationError

LOWEST_PYTHON = (3, 11)
"""The oldest Python that runs our own modules, which every child imports."""


@dataclass(frozen=True)
class PythonEnvironment:
    """Packages that cannot share our environment, and the Python that they need.

    A toolchain that declares one runs in it: uv creates it on first need and keeps it for all that ask
    for the same. Its children find our packages and every package with formats there, so the modules of
    such a format must import without the packages of our environment, NumPy apart.

    Attributes:
        python: The version, as `3.11` or `3.11.9`; uv fetches one that is not installed.
        requirements: As pip takes them (`mxnet==1.9.1`); pin them, or the environment is not the same everywhere.

    Raises:
        ConfigurationError: The version is none, or older than what our own modules need.
    """

    python: str
    requirements: tuple[str, ...]

    def __post_init__(self) -> None:
        numbers = self.python.split(".")
        lowest = ".".join(map(str, LOWEST_PYTHON))
        if not 2 <= len(numbers) <= 3 or not all(number.isdecimal() for number in numbers):
            raise ConfigurationError(f"{self.python!r} is no version of Python.", remedy=f"Write {lowest!r}.")
        if tuple(map(int, numbers[:2])) < LOWEST_PYTHON:
            raise ConfigurationError(
                f"An environment with Python {self.python} cannot run registry-export's children: "
                f"they need {lowest} or newer.",
                remedy="Call the older Python as a program from the conversion instead.",
            )


@dataclass(frozen=True)
class Toolchain:
    """Modules that a child needs; children that share a toolchain are forked from one warm parent.

    Attributes:
        name: What the parent is called in logs.
        modules: Imported by the parent before any checkpoint is near, in this order.
        environment: Environment variables that must be set before the imports.
        python: The environment of its own that it needs; None: it runs in ours. A format whose toolchain
            has one names `uv` among its requirements, and of the rest only what is needed in ours.
        fallback: Used instead where this one cannot be started, with a warning; a format that declares it
            tells by `sys.modules` where it runs.
        late: Modules that conversions and runners import late: the parent has them before. One that cannot be imported
            there is left to the child that needs it.
        exercise: `package.module:name` of a function without arguments that the parent calls after all imports, so
            that no child pays for what a framework does at its first use. It must leave no thread behind: none
            survives a fork, and a child waits for ever for a pool that is gone. Empty: there is none.
        resource: What a machine should have for it, as Dask workers name it: `cuda`, `macos`. On a cluster its steps
            go to a worker that has it where there is one; elsewhere the format itself says what is missing.
    """

    name: str
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: PythonEnvironment | None = None
    fallback: Toolchain | None = None
    late: tuple[str, ...] = ()
    exercise: str = ""
    resource: str = ""
