"""The steps of a program, and how one that needs nothing but its inputs is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry_export.errors import RegistryExportError, VerificationError
from registry_export_plugins._coreml.evaluation.registry import Operator
from registry_export_plugins._coreml.evaluation.values import Kind, stored


@dataclass(frozen=True)
class Name:
    """A value that another step made."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        type: The operator's name.
        called: What the program calls the operation.
        operator: Computes it; None where it needs blocks or states.
        inputs: By name: each a `Name`, a constant, or a tuple of them.
        outputs: Names and kinds of what it gives.
        blocks: Nested blocks, in order.
        last: Names that nothing uses after it.
    """

    type: str
    called: str
    operator: Operator | None
    inputs: Mapping[str, Any]
    outputs: tuple[tuple[str, Kind], ...]
    blocks: tuple[Block, ...]
    last: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """Operations with what goes in and what comes out.

    Attributes:
        inputs: Names of the values that whoever runs it gives; a nested block sees those around it too.
        constants: Known beforehand, by name.
        steps: In order.
        outputs: Names of what it gives.
    """

    inputs: tuple[str, ...]
    constants: Mapping[str, Any]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def used(step: Step) -> set[str]:
    """Return the names that a step uses, those inside its blocks too."""
    names = {
        item.name
        for value in step.inputs.values()
        for item in (value if isinstance(value, tuple) else (value,))
        if isinstance(item, Name)
    }
    for block in step.blocks:
        names.update(block.outputs, *(used(inner) for inner in block.steps))
    return names


def computed(step: Step, known: Mapping[str, Any], release: int) -> Sequence[Any]:
    """Compute a step that has no blocks.

    Args:
        step: The step.
        known: Values by name.
        release: The number of the iOS whose operators the program uses.

    Raises:
        VerificationError: It cannot be computed on these inputs.
        RuntimeAbsentError: The operator is used in a way that the evaluator does not know.
    """
    operator = step.operator
    assert operator is not None
    inputs = {name: resolved(value, known) for name, value in step.inputs.items()}
    if not operator.exact:
        inputs = {name: _widened(value) for name, value in inputs.items()}
    if operator.by_release:
        inputs["release"] = release
    try:
        result = operator.function(**inputs)
    except (RegistryExportError, MemoryError):
        raise
    # NumPy raises whatever fits on shapes that do not; a damaged program may bring any.
    except Exception as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise VerificationError(f"The operation {step.called} cannot be computed: {told}") from error
    return result if isinstance(result, tuple) else (result,)


def kept(step: Step, results: Sequence[Any]) -> dict[str, Any]:
    """Return what a step gives by name, in the element types that the program stores it in.

    Raises:
        VerificationError: There are too few results, or their sizes are not those that the program tells.
    """
    if len(results) < len(step.outputs):
        raise VerificationError(f"The operation {step.called} gives {len(results)} values.")
    try:
        return {name: stored(result, kind) for (name, kind), result in zip(step.outputs, results, strict=False)}
    except VerificationError as error:
        raise VerificationError(f"The operation {step.called} is wrong: {error.message}.") from error


def resolved(value: Any, known: Mapping[str, Any]) -> Any:
    """Put values in the place of their names."""
    if isinstance(value, Name):
        return known[value.name]
    if isinstance(value, tuple):
        return tuple(resolved(item, known) for item in value)
    return value


def _widened(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_widened(item) for item in value)
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value
