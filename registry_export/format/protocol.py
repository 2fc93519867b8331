"""One format, as the core sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from registry_export.entities import Description, Interface
from registry_export.format.conversion import Conversion
from registry_export.format.options import PRUNING, Option
from registry_export.format.runner import Runner
from registry_export.format.toolchain import Toolchain

RUNTIMES = ("onnxruntime", "ios", "macos", "openvino", "executorch", "tflite")
"""The runtimes of which a rule or `plan --runtime` may name the oldest version in use."""


@runtime_checkable
class Format(Protocol):
    """One format. Instances are stateless; the class is called without arguments.

    A source that can be completed by a rule, or pruned, declares a further attribute `setup`, the names of the
    fields of `ModelSetup` that it heeds; its `load` and `open` then take a `ModelSetup` as third argument, with
    the default `NO_SETUP`.

    A format whose artifacts run on some machines only declares a further method `runs_here(description) ->
    str`: why this machine cannot run an artifact, told from its `Description` alone, or an empty string. It is called
    in a child with the format's `toolchain` and must be quick. A worker finishes the verification of what
    `open` has refused elsewhere with a `RuntimeAbsentError` where `runs_here` has nothing against it.

    A format that is a target may declare a further method `snippets(description) -> Sequence[Snippet]`: how its
    file is loaded and called by its own runtime alone, in the languages that its users write, Python first. It is
    called outside of children, imports no framework, and fills in the names and sizes of the artifact's `Description`.

    A format may declare a further method `needs(options, kind, description) -> tuple[RuntimeNeed, ...]`: which runtimes
    take an artifact that is made with these options from this kind, from which version on; `description` is None
    before it is made. It is called in the supervisor and imports no framework.

    A format may declare a further method `inspect(path) -> Inside`: the tensors, operators and metadata of a
    checkpoint or an artifact, for `registry-export inspect`; without it only what `describe` says is shown. It is
    called in a child with the format's `toolchain`, or that one's `fallback`; no architecture, setup or GPU is needed.

    Attributes:
        name: As a user types it: lower case, digits and underscores.
        summary: One line for `registry-export formats`.
        extra: The extra of `registry-export[...]` that installs what it needs; empty: none needed.
        requirements: Packages needed to load, run and describe it, by import name.
        toolchain: What a child needs for `load`, `open` and `describe`.
        kind: What `load` yields; empty when nothing can be converted from it.
        filename: Name of the deployable file or folder inside the artifact's folder (`model.onnx`).
        options: In the order in which they enter a variant.
        conversions: Edges into this format; empty for a format that is only ever a source.
        verified_by: How an artifact is verified here, for people (`ONNX Runtime on the CPU`).
    """

    name: str
    summary: str
    extra: str
    requirements: tuple[str, ...]
    toolchain: Toolchain
    kind: str
    filename: str
    options: tuple[Option, ...]
    conversions: tuple[Conversion, ...]
    verified_by: str

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find this format's checkpoint in a downloaded model; runs in the supervisor, imports nothing.

        Args:
            folder: The downloaded model folder.
            flavors: The `flavors` of its MLmodel file; empty for plain files.

        Returns:
            The checkpoint's file or folder, or None when the model is not of this format.
        """
        ...

    def load(self, path: Path, interface: Interface) -> Any:
        """Load a checkpoint or an artifact and return the object that `kind` promises.

        Args:
            path: What `locate` returned, or `filename` inside an artifact's folder.
            interface: A source's declared signature (names may be empty, outputs unknown), or the
                interface that an artifact was made with.
        """
        ...

    def open(self, path: Path, interface: Interface) -> AbstractContextManager[Runner]:
        """Load a checkpoint or an artifact for inference. Arguments as for `load`.

        Raises:
            RuntimeAbsentError: The runtime cannot run it on this machine.
        """
        ...

    def describe(self, path: Path) -> Description:
        """Read an artifact's own account of itself from its file."""
        ...


def options_of(format: Format) -> tuple[Option, ...]:  # noqa: A002
    """Return the options of targets of a format: its own, and those that all targets have."""
    return (*format.options, PRUNING) if format.conversions else format.options
