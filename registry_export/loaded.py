"""An export that is open for inference: what `registry_export.load` returns, and what MLflow's loading is made of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from registry_export.binding import Array, exact_inputs
from registry_export.discovery import discover_formats, format_named, install_command, missing_requirements
from registry_export.entities import Interface
from registry_export.errors import RegistryExportError, RuntimeAbsentError, VerificationError
from registry_export.format import Runner
from registry_export.inference import one_line
from registry_export.manifest import Manifest, read_manifest


class LoadedExport:
    """A `Runner`, and a context manager that closes it; one that nobody closes is closed when the process ends.

    Attributes:
        manifest: What it is.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self._closing = ExitStack()
        self._runner = _open(folder, self.manifest, self._closing)
        self._close = weakref.finalize(self, self._closing.close)

    @property
    def interface(self) -> Interface:
        """Inputs and outputs by name, in order."""
        return self._runner.interface

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        return self._runner.runtime

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the model once, on inputs that are checked first.

        Args:
            inputs: An array by input name, with the dtypes and shapes of `interface.inputs`. Lists take the declared
                dtype, and integers in another width do where their values fit; nothing else is cast.

        Returns:
            Arrays by output name, in order.

        Raises:
            VerificationError: They do not fit (says which input, what it takes and what it was given), the runtime
                fails on them, or the export is closed.
        """
        return self.infer(exact_inputs(inputs, self.interface.inputs))

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once on arrays that fit; `predict` looks whether they do.

        Args:
            inputs: Arrays by input name, with the dtypes of `interface`.

        Returns:
            Arrays by output name, in order.

        Raises:
            VerificationError: The runtime fails on them, or the export is closed.
        """
        if not self._close.alive:
            raise VerificationError(f"{self.manifest.variant} is closed.", remedy="Load it again.")
        try:
            return self._runner.infer(inputs)
        except (RegistryExportError, MemoryError):
            raise
        except Exception as error:
            said = f"{self.runtime} fails on these inputs: {one_line(error).rstrip('.')}."
            raise VerificationError(said) from error

    def close(self) -> None:
        """Let go of the model and of its temporary files."""
        self._close()

    def call_when_closed(self, callback: Callable[..., object], *arguments: object) -> None:
        """Do something more on `close`, such as removing a folder."""
        self._closing.callback(callback, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open(folder: Path, manifest: Manifest, closing: ExitStack) -> Runner:
    format_ = format_named(discover_formats(), manifest.format)
    if missing := missing_requirements(format_.requirements):
        raise RuntimeAbsentError(
            f"Loading {manifest.variant} needs packages that are not installed: {', '.join(missing)}.",
            remedy=f"Run `{install_command(format_)}`." if format_.extra else "",
        )
    return closing.enter_context(format_.open(folder / manifest.filename, manifest.interface))
