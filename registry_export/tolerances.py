"""What a difference may be: each precision's default, and what becomes of it for one output of one source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry_export.entities import Tolerance

DEFAULT_TOLERANCES = {
    "fp32": Tolerance(atol=1e-5, rtol=1e-3, default=True),
    "fp16": Tolerance(atol=2.5e-2, rtol=1e-2, snr_db=35.0, agreement=0.95, default=True),
    "bf16": Tolerance(atol=1e-1, rtol=8e-2, snr_db=20.0, agreement=0.9, default=True),
    "int8": Tolerance(atol=1e-2, rtol=1e-1, snr_db=15.0, by_element=False, agreement=0.9, default=True),
}
"""By precision, the finest first. `docs/verification.md` says how each came about.

fp32: a thousandth of each value, and 1e-5 near zero, where relative error means nothing.

Half precision keeps 11 significant bits (fp16) or 8 (bf16), and every runtime rounds elsewhere: a few units of
its last place at the size of a layer's sums (2**-11 and 2**-8 of values around 1 to 10). Rounding errors of
independent steps add up as squares do, so a hundred steps leave 46 dB of fp16 and 28 dB of bf16: of values around 1
a standard deviation of 5e-3 and of 4e-2. Of many thousand elements the furthest is five deviations off, which is `atol`
of fp16; bf16 is given half of that, or a wrong answer of few elements would pass.

int8 has 256 steps over a tensor's whole range, so its error is a share of that range and falls on small elements
too: an output is judged whole. 15 dB is a noise of 18 % of the output's root mean square, which a working int8
model stays well below (25 to 45 dB) and one whose ranges were lost does not reach.
"""

NOISE_FACTOR = 10.0
"""A difference within ten times the source's own noise says nothing against a converter."""

MOST_NOISE = 10.0
"""Above this many times the default tolerance at an output's size, a source is called unstable."""

_MOST_CHANGING = 0.05
"""The same for a discrete output: the share of its elements that change by themselves."""

_SMALL, _LARGE = 0.1, 10.0
"""Between these root mean squares of an output `atol` stands as it is; beyond, it follows the output's size."""
_LEAST_SCALE = 0.03
_ROUNDING = 48 * float(np.finfo(np.float32).eps)
"""What right exports may differ by, of the largest value in an output: sums of such values carry the rounding of all
of them, also where they come out near zero. The coarsest that was seen is 3.5e-6, of MNN's fast convolutions."""


@dataclass(frozen=True)
class Size:
    """How large an output is: the root mean square and the largest absolute value of its finite elements."""

    root_mean_square: float
    largest: float


@dataclass(frozen=True)
class Allowance:
    """A tolerance at one output of one source.

    Attributes:
        atol: Allowed everywhere.
        rtol: Allowed in proportion to the expected value.
        raised: Ten times the noise floor of the source; 0 where a person's tolerance is in force.
        share: Of the elements of a discrete output, how many must be equal; 1: all.
        floor: The smallest size that a relative difference is taken of.
    """

    atol: float
    rtol: float
    raised: float
    share: float
    floor: float

    def of(self, size: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is allowed at elements of these absolute values."""
        return np.maximum(self.atol + self.rtol * size, self.raised)

    @property
    def text(self) -> str:
        """The tolerance as people read it."""
        text = f"atol {self.atol:.1e}, rtol {self.rtol:.1e}"
        return f"{text}, or {self.raised:.1e}: ten times the source's own noise" if self.raised > self.atol else text


def allowance(tolerance: Tolerance, size: Size, noise: float, *, exact: bool) -> Allowance:
    """Apply a tolerance to one output.

    Args:
        tolerance: A person's is taken as it is; a default follows the output's size and the source's noise.
        size: The output's.
        noise: The source's noise floor there: the largest difference between two ways of computing it, or the
            share of its elements that differ, for a discrete output.
        exact: Whether the output is discrete.
    """
    tiny = float(np.finfo(np.float64).tiny)
    floor = max(tolerance.atol / tolerance.rtol, tiny) if tolerance.rtol > 0 else tiny
    if exact:
        share = 1.0 if tolerance.agreement is None else tolerance.agreement
        if tolerance.default:
            share = max(0.0, min(share, 1 - NOISE_FACTOR * noise))
        return Allowance(0.0, 0.0, 0.0, share, floor)
    if not tolerance.default:
        return Allowance(tolerance.atol, tolerance.rtol, 0.0, 1.0, floor)
    raised = NOISE_FACTOR * max(noise, _ROUNDING / NOISE_FACTOR * size.largest)
    return Allowance(tolerance.atol * scale(size), tolerance.rtol, raised, 1.0, floor)


def scale(size: Size) -> float:
    """Return by how much `atol` follows an output's size.

    A softmax over thirty thousand words has outputs around 3e-5, of which 1e-5 would be a third; one of
    a regression in the thousands cannot be exact to 1e-5 near zero.
    """
    rms = size.root_mean_square
    if rms == 0:
        return 1.0
    return max(_LEAST_SCALE, rms / _SMALL) if rms < _SMALL else max(1.0, rms / _LARGE)


def too_noisy(tolerance: Tolerance, size: Size, noise: float, *, exact: bool) -> bool:
    """Say whether a source's own noise is so large that no converter can be judged against it."""
    if exact:
        return noise > _MOST_CHANGING
    default = DEFAULT_TOLERANCES["fp32"] if not tolerance.default else tolerance
    return noise > MOST_NOISE * (default.atol * scale(size) + default.rtol * size.root_mean_square)
