"""What the two runs of a model share: the source's, in `reference`, and an export's, in `replay`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from registry_export.entities import Interface


@dataclass(frozen=True)
class Origin:
    """A checkpoint or an artifact that a child loads.

    Attributes:
        format: The format that loads it.
        path: Its file or folder.
        interface: The declared signature of a source, or the interface that an artifact was made with.
        code_paths: Folders of the author's code that the checkpoint needs to load.
    """

    format: str
    path: str
    interface: Interface
    code_paths: tuple[str, ...] = ()

    def enter(self) -> None:
        """Make the author's code importable."""
        sys.path[:0] = self.code_paths


@dataclass(frozen=True)
class RungFiles:
    """One set of inputs with the source's outputs, in folders that `tensors` reads.

    Attributes:
        name: What the inputs are.
        group: The dimension that they vary; empty for the example.
        inputs: Folder of the inputs.
        expected: Folder of the source's outputs.
    """

    name: str
    group: str
    inputs: str
    expected: str


def one_line(error: BaseException, limit: int = 400) -> str:
    """Fold an exception of somebody else's into one line that starts with its class."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{type(error).__name__}: {text}" if not text.startswith(type(error).__name__) else text
    return text if len(text) <= limit else text[: limit - 1] + "…"
