from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry_export import comparison
from registry_export.comparison import compare, compare_all
from registry_export.differences import Sums, finite
from registry_export.entities import Metrics, Tolerance
from registry_export.tolerances import DEFAULT_TOLERANCES

TIGHT = Tolerance(atol=1e-5, rtol=1e-3)


def f32(*values):
    return np.array(values, dtype=np.float32)


def test_an_exact_match_has_no_snr_and_a_cosine_of_one():
    result = compare(f32(1, 2), f32(1, 2), TIGHT)
    assert not result.problem
    metrics = result.sums.metrics()
    assert (metrics.max_abs_diff, metrics.max_rel_diff, metrics.snr_db) == (0, 0, None)
    assert metrics.cosine == pytest.approx(1, abs=1e-12)


def test_differences_are_measured_in_float64():
    expected, actual = np.array([1.0], np.float32), np.array([1 + 2**-23], np.float32)
    assert compare(expected, actual, TIGHT).sums.metrics().max_abs_diff == 2.0**-23


def test_relative_difference_survives_zeros():
    # atol / rtol = 0.01 is the smallest magnitude that a difference is related to
    assert compare(f32(0.0), f32(1e-4), TIGHT).sums.metrics().max_rel_diff == pytest.approx(1e-2, rel=1e-5)


def test_a_breach_of_the_tolerance_names_the_worst_element():
    problem = compare(f32(1, 2, 3), f32(1, 2.5, 3), TIGHT).problem
    assert "1 of 3 elements breach" in problem
    assert "the worst at [1] is 2.5" in problem
    assert "2.5" in problem


def test_the_tolerance_grows_with_the_expected_value():
    assert not compare(f32(1000), f32(1000.9), TIGHT).problem
    assert compare(f32(1), f32(1.9), TIGHT).problem


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_or_infinity_that_the_source_has_not_is_never_a_pass(bad):
    assert compare(f32(1, 2), f32(1, bad), Tolerance(math.inf, 0)).problem
    assert compare(f32(1, bad), f32(1, 2), Tolerance(math.inf, 0)).problem


def test_infinity_of_the_other_sign_is_never_a_pass():
    assert compare(f32(np.inf), f32(-np.inf), TIGHT).problem


def test_the_sources_own_nan_and_infinity_are_kept():
    assert not compare(f32(1, np.nan, np.inf), f32(1, np.nan, np.inf), TIGHT).problem


def test_another_dtype_is_a_problem():
    assert "float64 instead of float32" in compare(f32(1), np.array([1.0]), TIGHT).problem


def test_another_shape_is_a_problem_even_where_it_would_broadcast():
    assert "1x2 instead of 2" in compare(f32(1, 2), f32(1, 2)[None], TIGHT).problem


def test_integers_must_be_equal_whatever_the_tolerance():
    loose = Tolerance(atol=10, rtol=10)
    assert compare(np.array([1, 2]), np.array([1, 3]), loose).problem
    assert not compare(np.array([1, 2]), np.array([1, 2]), loose).problem


def test_booleans_are_compared():
    assert compare(np.array([True]), np.array([False]), TIGHT).problem


@pytest.mark.parametrize("shape", [(), (4,), (4, 3)])
def test_complex_numbers_are_judged_by_both_of_their_parts(shape):
    expected = np.full(shape, 1 + 2j, np.complex64)
    assert not compare(expected, expected + np.complex64(1e-6 + 1e-6j), TIGHT).problem
    assert "breach" in compare(expected, expected + np.complex64(0.1j), TIGHT).problem
    assert "breach" in compare(expected, expected + np.complex64(0.1), TIGHT).problem
    assert "nan" in compare(expected, expected * np.complex64(complex(1, np.nan)), TIGHT).problem


def test_missing_and_extra_outputs_are_problems():
    assert "b is missing" in compare_all({"a": f32(1), "b": f32(1)}, {"a": f32(1)}, TIGHT)[1]
    assert "b is not the source's" in compare_all({"a": f32(1)}, {"a": f32(1), "b": f32(1)}, TIGHT)[1]


def test_swapped_outputs_are_a_problem():
    assert compare_all({"a": f32(1), "b": f32(2)}, {"a": f32(2), "b": f32(1)}, TIGHT)[1]


def test_top1_agreement_counts_rows():
    expected = f32(0, 1, 2, 3).reshape(2, 2)
    actual = f32(1, 0, 2, 3).reshape(2, 2)
    assert compare(expected, actual, TIGHT).sums.metrics().top1_agreement == 0.5
    assert compare(f32(1, 2), f32(1, 2), TIGHT).sums.metrics().top1_agreement is None


def test_two_zero_vectors_are_alike_and_a_zero_and_another_are_not():
    assert compare(f32(0, 0), f32(0, 0), TIGHT).sums.metrics().cosine == 1
    assert compare(f32(0, 0), f32(1, 0), TIGHT).sums.metrics().cosine == 0


def test_snr_is_that_of_its_definition():
    expected, actual = f32(3, 4), f32(3, 4.5)
    assert compare(expected, actual, TIGHT).sums.metrics().snr_db == pytest.approx(10 * math.log10(25 / 0.25))


def test_no_elements_have_no_metrics():
    assert Sums().metrics() == Metrics()


def test_infinite_metrics_are_left_out():
    assert finite(Metrics(max_abs_diff=math.inf, cosine=1.0)) == Metrics(cosine=1.0)


def test_blocks_give_what_the_whole_gives(monkeypatch):
    generator = np.random.default_rng(0)
    expected = generator.standard_normal((7, 11)).astype(np.float32)
    actual = expected + generator.standard_normal((7, 11)).astype(np.float32) * 1e-3
    whole = compare(expected, actual, TIGHT)
    monkeypatch.setattr(comparison, "_BLOCK", 5)
    parts = compare(expected, actual, TIGHT)
    assert parts.sums.metrics().max_abs_diff == whole.sums.metrics().max_abs_diff
    assert parts.sums.metrics().snr_db == pytest.approx(whole.sums.metrics().snr_db)
    assert bool(parts.problem) == bool(whole.problem)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32)))
def test_anything_equals_itself(array):
    assert not compare(array, array.copy(), TIGHT).problem


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_the_verdict_is_that_of_numpys_formula(expected, actual):
    e, a = expected.astype(np.float64), actual.astype(np.float64)
    within = bool(np.all(np.abs(a - e) <= TIGHT.atol + TIGHT.rtol * np.abs(e)))
    assert (not compare(expected, actual, TIGHT).problem) == within


@pytest.mark.parametrize(("precision", "agrees"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_each_precision_allows_what_its_last_place_makes_of_a_sum(precision, agrees):
    expected = np.array([[2.176e-4, 3.1]], np.float16)
    actual = np.array([[2.369e-4, 3.109]], np.float16)  # three units of the last place of 3.1, one rounding of a sum
    assert (not compare(expected, actual, DEFAULT_TOLERANCES[precision]).problem) is agrees


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_no_precision_allows_another_answer(precision):
    expected, actual = np.array([[1.0, 2.0]], np.float32), np.array([[1.2, 2.0]], np.float32)
    assert compare(expected, actual, DEFAULT_TOLERANCES[precision]).problem


INT8 = DEFAULT_TOLERANCES["int8"]


@pytest.mark.parametrize(("noise", "good"), [(0.02, True), (0.1, True), (0.25, False), (1.0, False)])
def test_a_coarse_precision_is_judged_by_its_noise_and_not_element_by_element(noise, good):
    generator = np.random.default_rng(0)
    expected = generator.standard_normal((8, 64)).astype(np.float32)
    actual = (expected + noise * generator.standard_normal(expected.shape)).astype(np.float32)
    assert compare(expected, actual, TIGHT).problem
    problem = compare(expected, actual, INT8).problem
    assert (not problem) is good, problem
    assert good or "dB is below 15 dB" in problem


@pytest.mark.parametrize(("ratio", "least"), [("14.98", "15"), ("14.96", "14.97")])
def test_a_ratio_that_is_missed_narrowly_is_not_written_as_what_was_asked_for_or_more(ratio, least):
    expected = np.arange(1.0, 101.0)
    actual = expected * (1 + 10 ** (-float(ratio) / 20))
    tolerance = replace(INT8, snr_db=float(least))
    assert f"ratio of {ratio} dB is below {least} dB" in compare(expected, actual, tolerance).problem


def test_a_coarse_precision_excuses_neither_nan_nor_wrong_integers_nor_something_in_place_of_nothing():
    assert compare(f32(1, 2), f32(1, np.nan), INT8).problem
    assert compare(np.array([1, 2]), np.array([1, 3]), INT8).problem
    assert compare(f32(0, 0), f32(0, 1e-3), INT8).problem
    assert not compare(f32(0, 0), f32(0, 0), INT8).problem


def test_a_constant_in_place_of_what_varies_around_an_offset_is_no_good_int8():
    expected = (10 + 0.1 * np.random.default_rng(0).standard_normal((8, 64))).astype(np.float32)
    ignoring = np.full_like(expected, 10.0)
    assert compare(expected, ignoring, INT8).sums.metrics().snr_db > 30
    assert "what varies in it" in compare(expected, ignoring, INT8).problem
    assert not compare(expected, expected + np.float32(0.02), INT8).problem
    constant = np.full((8, 64), 10.0, np.float32)
    assert not compare(constant, constant + np.float32(0.1), INT8).problem


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("expected", "actual"), [(1e160, -1e160), (1.0, 1e160), (1e308, -1e307)])
def test_numbers_whose_squares_no_float_holds_are_a_mismatch_and_no_crash(precision, expected, actual):
    result = compare(np.full(10, expected), np.full(10, actual), DEFAULT_TOLERANCES[precision])
    assert result.problem
    assert finite(result.sums.metrics()).snr_db is None
