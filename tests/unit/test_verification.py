"""Verdicts at the edges: what must never pass for verified."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.comparison import compare
from registry_export.entities import Tolerance


def test_a_tolerance_that_is_no_number_allows_nothing():
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert compare(one, zero, Tolerance(float("nan"), 1e-3)).problem
    assert compare(one, zero, Tolerance(1e-5, float("nan"))).problem


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_float64_cannot_tell_apart_are_told_apart(dtype):
    expected, actual = np.array([2**53 + 1], dtype), np.array([2**53], dtype)
    assert compare(expected, actual, Tolerance(1e-5, 1e-3)).problem
    assert not compare(expected, expected, Tolerance(1e-5, 1e-3)).problem
