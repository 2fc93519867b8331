"""What the report's plots are drawn from: all elements counted, few kept, and no verdict changed by any."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.comparison import compare_all
from registry_export.distributions import MOST_BINS, MOST_ELEMENTS, MOST_OUTPUTS, Distributions
from registry_export.entities import Tolerance
from registry_export.tolerances import DEFAULT_TOLERANCES

OWN = Tolerance(1e-5, 1e-3)


def spread(*rungs, tolerance=OWN):
    """The distributions over rungs, each a pair of outputs by name."""
    collected = Distributions()
    for expected, actual in rungs:
        collected.add(compare_all(expected, actual, tolerance)[0], expected, actual)
    return collected.settled()


def test_each_element_is_in_one_bin_whose_ends_hold_its_difference():
    expected = np.zeros(6)
    actual = np.array([0, 0, 1e-7, 3e-7, 5e-5, 2.0])
    found = spread(({"y": expected}, {"y": actual}))["y"]
    assert (found.elements, found.equal, sum(found.counts)) == (6, 2, 4)
    assert len(found.edges) == len(found.counts) + 1
    for difference in actual[2:]:
        (bin_,) = [i for i in range(len(found.counts)) if found.edges[i] <= difference < found.edges[i + 1]]
        assert found.counts[bin_] == 1


@pytest.mark.parametrize("decades", [0.1, 1, 3, 8, 30, 90])
def test_bins_are_few_however_far_differences_lie_apart(decades):
    differences = 10.0 ** -np.linspace(0, decades, 5000)
    found = spread(({"y": np.zeros(5000)}, {"y": differences}))["y"]
    assert 0 < len(found.counts) <= MOST_BINS
    assert sum(found.counts) == 5000
    assert list(found.edges) == sorted(set(found.edges))
    assert found.edges[-2] <= 1.0 < found.edges[-1]


def test_all_inputs_are_counted_and_elements_are_those_of_the_first():
    first = {"y": np.arange(4.0)}, {"y": np.arange(4.0)}
    second = {"y": np.arange(10.0)}, {"y": np.arange(10.0) + 1}
    found = spread(first, second)["y"]
    assert (found.elements, found.equal, sum(found.counts)) == (14, 4, 10)
    assert found.expected == found.actual == (0, 1, 2, 3)


def test_a_large_output_leaves_a_few_elements_and_the_same_ones_each_time():
    generator = np.random.default_rng(1)
    expected = generator.normal(size=(1000, 300)).astype(np.float32)
    pair = {"y": expected}, {"y": expected + np.float32(1e-6)}
    found = spread(pair)["y"]
    assert len(found.expected) == len(found.actual) == MOST_ELEMENTS
    assert np.allclose(found.expected, found.actual, atol=1e-5)
    assert spread(pair)["y"] == found


def test_elements_that_are_no_number_are_not_kept():
    expected, actual = np.array([np.nan, 1, 2, np.inf]), np.array([np.nan, 1, np.nan, np.inf])
    found = spread(({"y": expected}, {"y": actual}))["y"]
    assert (found.expected, found.actual, found.elements) == ((1.0,), (1.0,), 1)


def test_what_was_allowed_of_an_element_is_known_only_where_elements_are_judged():
    pair = {"y": np.array([0.0, -2.0])}, {"y": np.array([0.0, -2.0])}
    assert spread(pair, tolerance=OWN)["y"].allowed == pytest.approx((1e-5, 1e-5 + 2e-3))
    assert spread(pair, tolerance=Tolerance(1e-5, 0.0))["y"].allowed == (1e-5, 1e-5)
    assert spread(pair, tolerance=DEFAULT_TOLERANCES["int8"])["y"].allowed == ()
    whole = {"y": np.array([1, 2])}, {"y": np.array([1, 2])}
    assert spread(whole)["y"].allowed == ()


def test_of_many_outputs_those_are_kept_that_are_furthest_off():
    expected = {f"y{i}": np.ones(3) for i in range(20)}
    actual = {f"y{i}": np.ones(3) + 1e-6 * i for i in range(20)}
    assert list(spread((expected, actual))) == [f"y{i}" for i in range(20 - MOST_OUTPUTS, 20)]


def test_outputs_of_other_shapes_have_none():
    assert spread(({"y": np.ones(3)}, {"y": np.ones(4)})) == {}
