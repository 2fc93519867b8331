"""How the differences of each output are spread: bins and a few elements, for the report's plots.

Bins come from the sums that are there anyway; elements are drawn, with the same seed always, from the first inputs
that count. Outputs of any size leave some kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from registry_export.comparison import Comparison
from registry_export.differences import Sums
from registry_export.entities import Distribution
from registry_export.format import Tensors

MOST_BINS = 64
_LEAST_BINS = 12
MOST_ELEMENTS = 200
MOST_OUTPUTS = 8

_Drawn = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class _Spread:
    """What is known so far of one output."""

    sums: Sums = field(default_factory=Sums)
    allowed: tuple[float, ...] = ()
    drawn: _Drawn = ((), ())

    def settled(self) -> Distribution:
        edges, counts = self.sums.bins(MOST_BINS)
        equal = self.sums.elements - sum(counts)
        return Distribution(
            self.sums.elements,
            equal,
            _rounded(np.array(edges)),
            tuple(counts),
            _rounded(np.array(self.allowed)),
            *self.drawn,
        )


class Distributions:
    """Collects over all inputs that the metrics speak of."""

    def __init__(self) -> None:
        self._spreads: dict[str, _Spread] = {}

    def add(self, compared: Mapping[str, Comparison], expected: Tensors, actual: Tensors) -> None:
        """Take the comparison of one rung in.

        Args:
            compared: By output.
            expected: The source's outputs.
            actual: The export's.
        """
        for name, comparison in compared.items():
            if not comparison.sums.elements:
                continue
            spread = self._spreads.get(name)
            if spread is None:
                spread = self._spreads[name] = _Spread(drawn=_drawn(expected[name], actual[name]))
            spread.sums.add(comparison.sums)
            bounds = (*spread.allowed, *comparison.allowed)
            spread.allowed = (min(bounds), max(bounds)) if bounds else ()

    def settled(self) -> dict[str, Distribution]:
        """Return what came out, of the outputs nearest to what is allowed or furthest beyond it, in their order."""
        nearest = sorted(self._spreads, key=lambda name: -self._spreads[name].sums.excess)[:MOST_OUTPUTS]
        return {name: spread.settled() for name, spread in self._spreads.items() if name in nearest}


def _drawn(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> _Drawn:
    """Draw elements of an output, in their order; those that are no number on either side are left out."""
    count = min(MOST_ELEMENTS, expected.size)
    places = np.sort(np.random.default_rng(0).choice(expected.size, count, replace=False, shuffle=False))
    pairs = np.stack([array.reshape(-1)[places].astype(np.float64) for array in (expected, actual)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    return _rounded(pairs[0]), _rounded(pairs[1])


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
