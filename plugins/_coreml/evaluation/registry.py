"""The operators that the evaluator knows, and how one is declared."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from registry_export.errors import RuntimeAbsentError, VerificationError

Tensor: TypeAlias = NDArray[Any]

LARGEST_RESULT = 2**31
"""Elements that one operation may make out of less: more is a mistake, or somebody's wish to exhaust us."""


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        function: Computes it from its inputs by name; returns one value, or a tuple of them.
        parameters: The inputs that it takes.
        exact: It only moves elements, or counts them: float16 needs no wider arithmetic.
        by_release: It differs between releases, and takes the number of the program's (`release`).
    """

    function: Callable[..., Any]
    parameters: frozenset[str]
    exact: bool
    by_release: bool


OPERATORS: dict[str, Operator] = {}
"""By the name that a program has for it."""


def operator(*names: str, exact: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the function below as operators of these names; of its own where none is given."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = frozenset(inspect.signature(function).parameters)
        for name in names or (function.__name__,):
            OPERATORS[name] = Operator(function, parameters - {"release"}, exact, "release" in parameters)
        return function

    return declare


def unknown(what: str) -> RuntimeAbsentError:
    """Say that the evaluator lacks an operator, or what one is asked for."""
    return RuntimeAbsentError(
        f"The evaluator of ML programs does not know the operator {what}.",
        remedy="Core ML itself, on a Mac, verifies the package.",
    )


def integers(values: Any) -> tuple[int, ...]:
    """Read an input that holds sizes, axes or positions."""
    return tuple(int(value) for value in np.asarray(values).reshape(-1))


def integer(value: Any) -> int:
    """Read an input that is one whole number."""
    return int(np.asarray(value).reshape(()))


def number(value: Any) -> float:
    """Read an input that is one number."""
    return float(np.asarray(value).reshape(()))


def flag(value: Any) -> bool:
    """Read an input that is true or false."""
    return bool(np.asarray(value).reshape(()))


def bounded(shape: Iterable[int]) -> tuple[int, ...]:
    """Check the shape of a result before memory is taken for it.

    Raises:
        VerificationError: It is negative, or too large to be meant.
    """
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST_RESULT:
        raise VerificationError(f"An operation would make a tensor of the sizes {sizes}.")
    return sizes


def along(vector: Any, axis: int, rank: int) -> Tensor:
    """Lay a vector along one axis of a tensor of `rank` axes; a scalar stays one."""
    vector = np.asarray(vector)
    if vector.ndim == 0:
        return vector
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
