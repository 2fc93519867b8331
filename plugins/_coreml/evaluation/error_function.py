"""The error function, which NumPy lacks."""

from __future__ import annotations

import functools
import math

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor

_STEPS_PER_UNIT = 64
_LAST = 6.0
"""From here on the error function is 1 in double precision."""
_TERMS = 6


@functools.cache
def _table() -> Tensor:
    """Coefficients of the Taylor polynomial around each point of the grid, from the lowest power on.

    The derivatives of erf are those of a Gaussian: erf^(n+1)(x) = 2/sqrt(pi) (-1)^n H_n(x) exp(-x^2), with
    Hermite's polynomials H_n.
    """
    points = np.arange(int(_LAST * _STEPS_PER_UNIT) + 2) / _STEPS_PER_UNIT
    hermite = [np.ones_like(points), 2 * points]
    for n in range(1, _TERMS - 1):
        hermite.append(2 * points * hermite[n] - 2 * n * hermite[n - 1])
    slope = 2 / math.sqrt(math.pi) * np.exp(-(points**2))
    terms = [np.array([math.erf(point) for point in points])]
    terms += [(-1) ** n * hermite[n] * slope / math.factorial(n + 1) for n in range(_TERMS)]
    return np.stack(terms)


def erf(x: Tensor) -> Tensor:
    """Compute the error function to about 1e-13, in the type of `x`."""
    table = _table()
    size = np.minimum(np.abs(np.asarray(x, np.float64)), _LAST)
    # A NaN has no place in the table; it comes back through `size`.
    nearest = np.rint(np.nan_to_num(size) * _STEPS_PER_UNIT).astype(np.int64)
    distance = size - nearest / _STEPS_PER_UNIT
    result = table[-1][nearest]
    for coefficients in table[-2::-1]:
        result = result * distance + coefficients[nearest]
    return np.asarray(np.copysign(result, x).astype(np.asarray(x).dtype))
