"""What a step takes, in seconds and memory: what was learnt of steps like it, else a first estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_BASE_BYTES = 1_000_000_000
"""A toolchain with everything that it has imported; TensorFlow's is the largest."""

_COPIES = 4
"""Of the weights: the source's, the converter's, its output's, and one in between."""

_BASE_SECONDS = 1.0
_BYTES_PER_SECOND = 100_000_000


@dataclass(frozen=True)
class StepCost:
    """What one kind of step took, or is expected to take.

    Attributes:
        seconds: In its child, the start of the toolchain not included.
        peak_bytes: Resident memory of the child at its peak.
        times: How often it was measured; 0: never, this is an estimate.
    """

    seconds: float
    peak_bytes: int
    times: int = 0


class StepCosts(Protocol):
    """What is remembered of the steps of all exports."""

    def known(self) -> Mapping[tuple[str, int], StepCost]:
        """Return what was learnt, by work and size class."""
        ...

    def learn(self, work: str, size_class: int, seconds: float, peak_bytes: int) -> None:
        """Remember what one run of a step took. Raises no error: an export does not fail for want of a memory."""
        ...


class Expectations:
    """What the steps of one export are expected to take.

    Args:
        size_bytes: Of the checkpoint.
        book: What is remembered, and where to write it; None: nothing.
    """

    def __init__(self, size_bytes: int = 0, book: StepCosts | None = None) -> None:
        self._size = size_bytes
        self._book = book
        self._known = book.known() if book is not None else {}

    @property
    def size_bytes(self) -> int:
        """The checkpoint's."""
        return self._size

    def of(self, work: str, effort: float = 1.0) -> StepCost:
        """Return what a step is expected to take.

        Args:
            work: Its name among all steps (`convert torch_module to onnx`, `verify onnx`).
            effort: How much work it is beside others, where it was never measured (a conversion's `cost`).
        """
        known = self._known.get((work, size_class(self._size)))
        if known is not None:
            return known
        seconds = effort * (_BASE_SECONDS + self._size / _BYTES_PER_SECOND)
        return StepCost(seconds, _BASE_BYTES + _COPIES * self._size)

    def learn(self, work: str, seconds: float, peak_bytes: int) -> None:
        """Remember what a step took."""
        if self._book is not None:
            self._book.learn(work, size_class(self._size), seconds, peak_bytes)


def size_class(size_bytes: int) -> int:
    """Return the class of a checkpoint's size: sizes of one class differ by less than two times."""
    return size_bytes.bit_length()
