"""An edge of the graph of formats: what a conversion is given, what it answers, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from registry_export.entities import Attempt, Interface, OptionValue
from registry_export.format.arrays import Tensors
from registry_export.format.toolchain import Toolchain


@dataclass(frozen=True)
class ConversionRequest:
    """What a conversion is given besides the model.

    Attributes:
        options: The target's options, defaults filled in.
        interface: Inputs and outputs to keep, in order, with the names the source gives them. A
            dimension that stands as a name should be dynamic in the result where the format can;
            equal names are equal sizes.
        samples: Inputs to trace with, by name. A dynamic dimension has size 2 or more here.
        work: An empty private folder for temporary files; the current folder too.
        calibration: The rule's samples, or else the model's input example, by name, with all their rows
            on axis 0; may be mapped from disk. Empty where there are neither, only random inputs.
    """

    options: Mapping[str, OptionValue]
    interface: Interface
    samples: Tensors
    work: Path
    calibration: Tensors = field(default_factory=dict)


FIXED_DECISION = "The trace has fixed the decision"
"""How a note begins that says of a file that it has kept one side of a decision on data.

Inputs that take this side alone prove nothing of the other, so the core calls such a file verified never."""


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion says of itself.

    Attributes:
        attempts: What was tried, in order; the last one worked.
        notes: Sentences that a reader of the report should see; see `FIXED_DECISION`.
    """

    attempts: tuple[Attempt, ...] = ()
    notes: tuple[str, ...] = ()


class Convert(Protocol):
    """Write `model` to `output`, in the format that the conversion belongs to.

    Raises:
        UnsupportedModelError: The format cannot express a part of the model; names that part.
        ConversionError: The converter refused, or wrote something that is not valid.
    """

    def __call__(self, model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
        """Convert; the arguments are described on the class."""
        ...


@dataclass(frozen=True)
class Conversion:
    """An edge of the graph of formats: from a kind into the format that declares it.

    Attributes:
        kind: The kind it consumes.
        function: Does it, in a child.
        toolchain: What the child needs, the loader of `kind` included.
        cost: Routes with the smallest sum are tried first; about the seconds it takes on a small model.
        label: Names the edge where one kind has several edges into the same format.
        requirements: Packages needed beyond the format's own, by import name.
        accepts: Says why it cannot serve these options (a sentence), or returns an empty string.
        intermediate: Options asked of the source of this edge when that source is an intermediate
            artifact, or a function of the target's options that returns them (int8 needs an int8 ONNX, say).
        calibrates: Whether it needs real samples to serve these options.
    """

    kind: str
    function: Convert
    toolchain: Toolchain
    cost: float = 1.0
    label: str = ""
    requirements: tuple[str, ...] = ()
    accepts: Callable[[Mapping[str, OptionValue]], str] = lambda _: ""
    intermediate: Mapping[str, OptionValue] | Callable[[Mapping[str, OptionValue]], Mapping[str, OptionValue]] = field(
        default_factory=dict
    )
    calibrates: Callable[[Mapping[str, OptionValue]], bool] = lambda _: False

    def asks(self, options: Mapping[str, OptionValue]) -> Mapping[str, OptionValue]:
        """Return the options asked of the intermediate artifact for a target's options."""
        return self.intermediate(options) if callable(self.intermediate) else self.intermediate
