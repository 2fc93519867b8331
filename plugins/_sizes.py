"""Trying a converted model next to its original at other sizes, to learn which dimensions are open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from registry_export.format import Array, ConversionRequest

_NOTHING = 1e-5
"""What two models may differ by whatever the size of their numbers: a thousand classes share a probability of one."""

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a model on arrays by input name; raises where the model does not take them."""


def sizes_of(request: ConversionRequest) -> dict[str, int]:
    """Return the size of every dynamic dimension in the samples."""
    return {
        name: int(size)
        for spec in request.interface.inputs
        for name, size in zip(spec.shape or (), np.shape(request.samples[spec.name]), strict=False)
        if isinstance(name, str)
    }


def resized(request: ConversionRequest, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Repeat or cut the samples to other sizes of their dynamic dimensions."""
    made = {}
    for spec in request.interface.inputs:
        array = np.asarray(request.samples[spec.name])
        for axis, dimension in enumerate(spec.shape or ()):
            if isinstance(dimension, str) and dimension in sizes and sizes[dimension] != array.shape[axis]:
                array = np.take(array, np.arange(sizes[dimension]) % array.shape[axis], axis)
        made[spec.name] = array
    return made


def batch_names(request: ConversionRequest) -> set[str]:
    """Return the names of the dynamic first axes."""
    return {spec.shape[0] for spec in request.interface.inputs if spec.shape and isinstance(spec.shape[0], str)}


def answers(model: Infer, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Return what a model answers; None where it does not take the inputs."""
    try:
        return model(inputs)
    except Exception:  # noqa: BLE001  a model refuses a size with whatever exception comes of it
        return None


def others_of(size: int) -> Iterator[int]:
    """Yield sizes to try instead of one: the double keeps divisors, the neighbours keep limits."""
    yield from (2 * size, size + 1, *((size - 1,) if size > 1 else ()))


def second_sizes(original: Infer, request: ConversionRequest, sizes: Mapping[str, int]) -> dict[str, int]:
    """Find another size of each dimension, one at a time, that the original takes; those without one are left out."""
    found: dict[str, int] = {}
    for name, size in sizes.items():
        for other in others_of(size):
            if answers(original, resized(request, {**sizes, name: other})) is not None:
                found[name] = other
                break
    return found


@dataclass(frozen=True)
class Found:
    """How a converted model compares with its original.

    Attributes:
        differs: Whether it answers otherwise on the samples themselves.
        fixed: The dimensions at whose other size it does not give the original's answers.
        snr_db: Signal-to-noise ratio on the samples, of the worst output; infinite for the same answers.
    """

    differs: bool
    fixed: tuple[str, ...]
    snr_db: float = math.inf

    @property
    def complaint(self) -> str:
        """Say what keeps it from being the original's equal; empty where nothing does."""
        if self.differs:
            return "its answers on the samples are not the model's"
        return f"it fixes {', '.join(self.fixed)}" if self.fixed else ""


def compare(
    original: Infer,
    converted: Infer,
    request: ConversionRequest,
    sizes: Mapping[str, int],
    others: Mapping[str, int],
    tolerance: float,
) -> Found:
    """Run a converted model next to its original, at the sizes of its conversion and at another of each.

    This only chooses among ways and learns which sizes are open; the verdict on an artifact is not made here.

    Args:
        original: The model that was converted.
        converted: What it became.
        request: The conversion's request.
        sizes: The size of every dynamic dimension at which it was converted.
        others: Another size of each that the original takes; a dimension without one counts as fixed.
        tolerance: Allowed difference, as a share of the largest number of an output.
    """
    expected, actual = answers(original, resized(request, sizes)), answers(converted, resized(request, sizes))
    if not _same(expected, actual, tolerance):
        return Found(True, tuple(sizes), -math.inf)
    fixed = [
        name
        for name in sizes
        if name not in others
        or not _agree(original, converted, resized(request, {**sizes, name: others[name]}), tolerance)
    ]
    return Found(False, tuple(fixed), _snr_db(expected or {}, actual or {}))


def _agree(original: Infer, converted: Infer, inputs: Mapping[str, Array], tolerance: float) -> bool:
    return _same(answers(original, inputs), answers(converted, inputs), tolerance)


def _same(expected: Mapping[str, Array] | None, actual: Mapping[str, Array] | None, tolerance: float) -> bool:
    if expected is None or actual is None:
        return False
    return all(name in actual and _close(actual[name], array, tolerance) for name, array in expected.items())


def _snr_db(expected: Mapping[str, Array], actual: Mapping[str, Array]) -> float:
    ratios = [math.inf]
    for name, array in expected.items():
        wide = array.astype(np.float64)
        noise, signal = np.square(actual[name].astype(np.float64) - wide).sum(), np.square(wide).sum()
        if noise > 0 and signal > 0:
            ratios.append(10 * math.log10(signal / noise))
    return min(ratios)


def _close(actual: Array, expected: Array, tolerance: float) -> bool:
    if actual.shape != expected.shape:
        return False
    wide = expected.astype(np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    bound = tolerance * float(finite.max(initial=0.0)) + _NOTHING
    return bool(np.allclose(actual.astype(np.float64), wide, atol=bound, rtol=tolerance, equal_nan=True))
