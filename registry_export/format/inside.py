"""What a file holds, for whoever looks into it without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from registry_export.format.arrays import Array


@dataclass(frozen=True)
class Held:
    """One tensor that a file holds.

    Attributes:
        name: As the file has it.
        value: Its elements, read when they are asked for; None: they cannot be. What NumPy lacks comes as float32, or
            as complex64.
        shape: Its sizes; empty where the value is an array, which has them.
        dtype: The element type as it is stored; empty: the value's, which is an array.
        size_bytes: As it is stored; None likewise.
        same_as: The name of a tensor before it with which it shares its memory.
    """

    name: str
    value: Array | Callable[[], Array] | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    size_bytes: int | None = None
    same_as: str = ""


@dataclass(frozen=True)
class Inside:
    """What a file holds, as its format reads it.

    Attributes:
        tensors: One after the other, each usable until the next one is asked for; None: the file does not tell.
        operators: How often each operator, layer or call stands in the graph; None: the file does not tell.
        metadata: What it says of itself beyond what `Format.describe` returns.
        unsaid: Why something is None, or not all of it: a sentence each.
    """

    tensors: Iterable[Held] | None = None
    operators: Mapping[str, int] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ()
