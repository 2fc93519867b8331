"""A tensor's sketch: a few dozen numbers from which the distance between two tensors can be estimated.

Intermediate tensors of a source and of its export cannot be matched by name, and are too large to keep. A
sketch holds, in float64,

- *moments* (mean, mean of |x|, root mean square, ...), which no reordering of the elements changes;
- *projections* onto fixed random signs. The mean square of the difference of two tensors' projections estimates
  the mean square of the tensors' difference (Johnson and Lindenstrauss, 1984), element by element;

the projections once along the elements as they lie in memory, which a reshape leaves alone, and once along the axes
with a random vector for each axis, told apart by its size, which a change of the layout (NCHW, NHWC) leaves alone.

Every number is an average that changes by no more than the elements do on average: what is within a tolerance
element by element is within it here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROWS = 24
"""Projections: the estimate is off by a factor of about 1 +- sqrt(2 / _ROWS)."""
_PERIOD = 4096
_MOST_AT_ONCE = 1 << 22
_MOST_ORDERS = 24
_LEAST_ELEMENTS = 4


@dataclass(frozen=True)
class Sketch:
    """What is kept of one tensor.

    Attributes:
        shape: Its sizes, those of 1 left out.
        elements: How many there are.
        odd: How many are not finite; they count as 0.
        moments: See `_moments`.
        size: The norms by which differences of the moments are measured.
        flat: Projections along the elements in their order.
        axes: Projections along the axes; several where sizes are equal and every order was asked for.
        says: Whether it is evidence at all: a constant or a handful of numbers is not.
    """

    shape: tuple[int, ...]
    elements: int
    odd: int
    moments: tuple[float, ...]
    size: tuple[float, ...]
    flat: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    says: bool


def sketch(array: NDArray[np.generic], every_order: bool = False) -> Sketch:
    """Sketch a tensor of floats.

    Args:
        array: Of any size; worked on in blocks.
        every_order: Whether to project along the axes in every order of those of equal size. One side of a
            comparison needs it.
    """
    array = np.ascontiguousarray(array)
    shape = tuple(size for size in array.shape if size != 1)
    array = array.reshape(shape)
    moments, size, flat, odd, spread = _streamed(array.reshape(-1))
    orders = _assignments(shape, every_order) if len(shape) > 1 and array.size else ()
    axes = [_numbers(_along_axes(array, signs) / math.sqrt(array.size)) for signs in orders]
    return Sketch(
        shape=shape,
        elements=int(array.size),
        odd=odd,
        moments=moments,
        size=size,
        flat=flat,
        axes=tuple(axes),
        says=array.size >= _LEAST_ELEMENTS and spread > 1e-9 * size[-1] and size[-1] > 0,
    )


def _streamed(
    array: NDArray[np.generic],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], int, float]:
    """Go through the elements once: moments, norms, projections, what is not finite, and the spread."""
    sums = np.zeros(5)
    low, high, odd = math.inf, -math.inf, 0
    flat = np.zeros(_ROWS)
    signs = _signs(_PERIOD, 0)
    step = _PERIOD * 256
    for start in range(0, array.size, step):
        block, wrong = _finite(array[start : start + step])
        odd += wrong
        size = np.abs(block)
        parts = (block.sum(), size.sum(), block @ block, np.maximum(block, 0).sum(), (size * size) @ size)
        sums += np.array(parts, np.float64)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        padded = np.zeros((-(-block.size // _PERIOD), _PERIOD))
        padded.reshape(-1)[: block.size] = block
        outer = np.stack([_block_signs(start // _PERIOD + i) for i in range(len(padded))])
        flat += ((padded @ signs.T) * outer).sum(axis=0)
    if not array.size:
        return (0.0,) * 7, (0.0,) * 7, _numbers(flat), 0, 0.0
    mean, absolute, square, positive, cube = sums / array.size
    root, third, most = math.sqrt(square), float(np.cbrt(cube)), max(abs(low), abs(high))
    moments = (float(mean), float(absolute), root, float(positive), third, low, high)
    norms = (float(absolute), float(absolute), root, float(absolute), third, most, most)
    return moments, norms, _numbers(flat / math.sqrt(array.size)), odd, high - low


def _finite(block: NDArray[np.generic]) -> tuple[Floats, int]:
    wide = np.asarray(block).astype(np.float64)
    good = np.isfinite(wide) & (np.abs(wide) < 1e30)  # a mask's "minus infinity" is often the lowest float
    if good.all():
        return wide, 0
    wide[~good] = 0
    return wide, int(wide.size - good.sum())


def _numbers(array: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in array)


@lru_cache(maxsize=64)
def _signs(size: int, occurrence: int) -> Floats:
    generator = np.random.default_rng([size, occurrence])
    return generator.choice(np.array([-1.0, 1.0]), (_ROWS, size))


@lru_cache(maxsize=4096)
def _block_signs(number: int) -> Floats:
    return np.random.default_rng([7, number]).choice(np.array([-1.0, 1.0]), _ROWS)


def _assignments(shape: Sequence[int], every_order: bool) -> Iterator[list[Floats]]:
    """Yield random signs for the axes: the n-th axis of one size has the n-th vector of that size, or any."""
    places: dict[int, list[int]] = {}
    for axis, size in enumerate(shape):
        places.setdefault(size, []).append(axis)
    orders = [list(permutations(range(len(axes)))) if every_order else [range(len(axes))] for axes in places.values()]
    for count, chosen in enumerate(product(*orders)):
        if count >= _MOST_ORDERS:
            return
        signs: list[Floats] = [np.zeros(0)] * len(shape)
        for (size, axes), order in zip(places.items(), chosen, strict=True):
            for axis, occurrence in zip(axes, order, strict=True):
                signs[axis] = _signs(size, occurrence)
        yield signs


def _along_axes(array: NDArray[np.generic], signs: Sequence[Floats]) -> Floats:
    """Contract every axis with its signs; the widest first, so that little is left."""
    if array.size > _MOST_AT_ONCE and array.ndim > 1:
        total = np.zeros(_ROWS)
        for i, part in enumerate(array):
            total += signs[0][:, i] * _along_axes(part, signs[1:])
        return total
    wide, _ = _finite(array)
    widest = int(np.argmax(array.shape))
    left = np.asarray(np.tensordot(signs[widest], wide, axes=(1, widest)), np.float64)
    for axis, vectors in enumerate(signs):
        if axis != widest:
            rows = left.reshape(_ROWS, array.shape[axis], -1)
            left = np.matmul(vectors[:, None, :], rows).reshape(_ROWS, -1)
    return left.reshape(_ROWS)
