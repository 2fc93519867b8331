"""How large a fault's effect is: the mutated model against the sound one, both in their own framework.

No converter, no artifact and nothing of the verifier's arithmetic is in it; only the tolerance in force is the
verifier's, because that is what an effect is measured by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry_export.comparison import size_of
from registry_export.entities import Tolerance
from registry_export.tensors import read_tensors
from registry_export.tolerances import allowance

Array = NDArray[Any]
Inputs = Mapping[str, Array]
Model = Callable[[Inputs], list[Array]]

LARGEST = 1e9
"""What stands for an effect without a bound: another shape, NaN, an error. JSON knows no infinity."""
_EPSILON = float(np.finfo(np.float32).eps)


def effect(expected: Sequence[Array], actual: Sequence[Array], tolerance: Tolerance, noise: Sequence[float]) -> float:
    """Return the largest difference in units of the tolerance in force: above 1 it is to be seen."""
    if len(expected) != len(actual):
        return LARGEST
    arrays = [(np.asarray(e), np.asarray(a)) for e, a in zip(expected, actual, strict=True)]
    return max((_one(e, a, tolerance, n) for (e, a), n in zip(arrays, noise, strict=True)), default=0.0)


def _one(expected: Array, actual: Array, tolerance: Tolerance, noise: float) -> float:
    if expected.shape != actual.shape or expected.dtype.kind != actual.dtype.kind:
        return LARGEST
    exact = expected.dtype.kind != "f"
    allowed = allowance(tolerance, size_of(expected), noise, exact=exact)
    if exact:
        return LARGEST if expected.size and np.mean(expected != actual) > 1 - allowed.share else 0.0
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore", over="ignore"):
        sizes = np.where(same, 0.0, np.abs(actual - expected) / allowed.of(np.abs(expected)))
    return float(min(np.nan_to_num(sizes, nan=LARGEST, posinf=LARGEST).max(initial=0.0), LARGEST))


def allclose(expected: Sequence[Array], actual: Sequence[Array]) -> bool:
    """Say what `np.allclose` on all outputs would: True means that it sees nothing."""
    if len(expected) != len(actual):
        return False
    pairs = [(np.asarray(e), np.asarray(a)) for e, a in zip(expected, actual, strict=True)]
    return all(e.shape == a.shape and np.allclose(e, a, rtol=1e-3, atol=1e-5) for e, a in pairs)


def hidden_inputs(example: Inputs) -> list[dict[str, Array]]:
    """Draw inputs that no ladder has seen: as the example, twice as large, and of another batch."""
    generator = np.random.default_rng(4711)
    drawn = [drawn_like(example, generator) for _ in range(3)]
    drawn[1] = {name: array * 2 if array.dtype.kind == "f" else array for name, array in drawn[1].items()}
    drawn[2] = {name: np.concatenate([array, drawn[0][name], array]) for name, array in drawn[2].items()}
    return drawn


def drawn_like(example: Inputs, generator: np.random.Generator) -> dict[str, Array]:
    """Draw one input of the example's shape: standard normal, or from the example's own range of integers."""
    return {name: _drawn(array, generator) for name, array in example.items()}


def _drawn(array: Array, generator: np.random.Generator) -> Array:
    if array.dtype.kind == "f":
        return generator.standard_normal(array.shape).astype(array.dtype)
    if array.dtype.kind == "b":
        return generator.integers(0, 2, array.shape).astype(bool)
    return generator.integers(int(array.min()), int(array.max()) + 1, array.shape).astype(array.dtype)


class Measure:
    """Measures many mutated models against one source.

    Args:
        arguments: What the child was given: `rungs` (folders of inputs), `noise` (by rung, by output),
            and `tolerance`.
        example: The net's example.
        exact: Runs the source in float64, where its framework can.
        plain: Runs it as it is.
    """

    def __init__(self, arguments: Mapping[str, Any], example: Inputs, exact: Model, plain: Model) -> None:
        self._tolerance = msgspec.convert(arguments["tolerance"], Tolerance)
        rungs = [read_tensors(Path(folder)) for folder in arguments["rungs"]]
        self._rungs = [(inputs, exact(inputs), n) for inputs, n in zip(rungs, arguments["noise"], strict=True)]
        noise = arguments["noise"][0]
        self._hidden = [(inputs, exact(inputs), noise) for inputs in hidden_inputs(example)]
        random = drawn_like(example, np.random.default_rng(1))
        self._random = (random, plain(random))

    def of(self, exact: Model, plain: Model) -> dict[str, Any]:
        """Return a mutated model's effect on each rung, its largest one on hidden inputs, and `np.allclose`'s word."""
        inputs, expected = self._random
        answered = _answer(plain, inputs)
        return {
            "rungs": [self._effect(exact, *rung) for rung in self._rungs],
            "hidden": max(self._effect(exact, *one) for one in self._hidden),
            "noticed": answered is None or not allclose(expected, answered),
        }

    def _effect(self, model: Model, inputs: Inputs, expected: list[Array], noise: Sequence[float]) -> float:
        answered = _answer(model, inputs)
        return LARGEST if answered is None else effect(expected, answered, self._tolerance, noise)


def _answer(model: Model, inputs: Inputs) -> list[Array] | None:
    """Run a mutated model; what does not answer at all differs."""
    try:
        return model(inputs)
    except Exception:  # noqa: BLE001
        return None
