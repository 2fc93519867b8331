"""The noise floor of a source, and what it does to a tolerance."""

from __future__ import annotations

import numpy as np
import pytest

from registry_export.comparison import compare
from registry_export.entities import Interface, TensorSpec, Tolerance
from registry_export.noise import carried, measure, unfit
from registry_export.tolerances import DEFAULT_TOLERANCES, Size, allowance, scale
from registry_export.variations import Variation

X = np.linspace(-2, 2, 8, dtype=np.float32).reshape(4, 2)
OUTPUTS = Interface((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),))


class Source:
    """Answers with its input; `error` is by how much its float64 self differs."""

    def __init__(self, error: float = 0.0, precision: str = "fp32") -> None:
        self.precision = precision
        self.variants = {"float64": lambda inputs: {"y": inputs["x"].astype(np.float64) + error}}

    @staticmethod
    def infer(inputs):
        return {"y": np.array(inputs["x"])}


def runs(source, *extra, alone=None):
    example, one = Variation("example", {"x": X}), Variation("batch 1", {"x": X[:1]}, "batch", "batch")
    answers = [(v, source.infer(v.inputs)) for v in (example, *extra)]
    return [*answers, (one, alone or source.infer(one.inputs))]


def test_what_float64_says_otherwise_is_the_floor():
    source = Source(1e-4)
    measured = measure(source, runs(source), OUTPUTS)
    assert measured.floor.ways == ("float64", "inputs nudged", "rows alone")
    assert measured.floor.outputs["y"] == pytest.approx(1e-4, rel=1e-3)
    assert not measured.unstable


def test_a_source_far_from_its_float64_self_is_unstable():
    source = Source(0.1)
    assert "unstable" in measure(source, runs(source), OUTPUTS).unstable
    half = Source(0.1, "bf16")
    assert not measure(half, runs(half), OUTPUTS).unstable


def test_complex_numbers_have_a_floor_and_are_not_called_unstable_for_their_last_digit():
    source = Source(0)
    source.infer = lambda inputs: {"y": inputs["x"] + 1j}
    source.variants = {"float64": lambda inputs: {"y": inputs["x"].astype(np.float64) + 1j + 1e-5}}
    measured = measure(source, runs(source), OUTPUTS)
    assert measured.floor.outputs["y"] == pytest.approx(1e-5, rel=1e-2)
    assert not measured.unstable


def test_a_row_that_comes_out_otherwise_alone_raises_the_floor():
    source = Source()
    measured = measure(source, runs(source, alone={"y": X[:1] + np.float32(1e-4)}), OUTPUTS)
    assert measured.floor.outputs["y"] == pytest.approx(1e-4, rel=1e-2)


def test_a_model_whose_rows_depend_on_each_other_is_not_called_noisy():
    source = Source()
    measured = measure(source, runs(source, alone={"y": X[:1] + 1}), OUTPUTS)
    assert not measured.unstable
    assert measured.floor.outputs["y"] < 1e-6
    assert any("depends on the other rows" in note for note in measured.notes)


def test_a_way_that_the_model_refuses_is_none():
    source = Source()
    source.variants = {"float64": lambda _: {}["no such way"]}
    assert measure(source, runs(source), OUTPUTS).floor.ways == ("inputs nudged", "rows alone")


def test_an_edge_has_a_floor_of_its_own_and_a_source_without_a_finite_answer_judges_nothing():
    source = Source(1e-4)
    large = Variation("large", {"x": X * 100}, kind="edge")
    broken = (Variation("zeros", {"x": X * 0}, kind="edge"), {"y": X * np.float32(np.nan)})
    measured = measure(source, [*runs(source, large), broken], OUTPUTS)
    assert carried(measured, (large, {}))["y"] == pytest.approx(1e-4, rel=0.1)
    assert "not finite" in unfit(measured, broken)
    assert not unfit(measured, (large, source.infer(large.inputs)))


class Sorter(Source):
    """Answers with the position of the largest of each row: any rounding decides where all are equal."""

    @staticmethod
    def infer(inputs):
        return {"y": np.argsort(-np.asarray(inputs["x"], np.float64), axis=-1).astype(np.float32)}


def test_where_the_source_jumps_nothing_is_judged():
    source = Sorter()
    source.variants = {}
    zeros = Variation("zeros", {"x": X * 0}, kind="edge")
    measured = measure(source, runs(source, zeros), OUTPUTS)
    assert "unstable here" in unfit(measured, (zeros, source.infer(zeros.inputs)))
    assert not measured.unstable
    tied = [(Variation("example", {"x": X * 0}), source.infer({"x": X * 0}))]
    measured = measure(source, tied, OUTPUTS)
    assert any("jumps" in note for note in measured.notes)
    assert measured.floor.outputs == {}


def test_ten_times_the_floor_is_allowed_and_not_more():
    expected = np.ones((4, 4), np.float32)
    default = DEFAULT_TOLERANCES["fp32"]
    off = expected + np.float32(5e-3)
    assert compare(expected, off, default).problem
    assert not compare(expected, off, default, noise=6e-4).problem
    assert "ten times" in compare(expected, off, default, noise=4e-4).problem


def test_a_persons_tolerance_is_taken_as_it_is():
    expected = np.ones((4, 4), np.float32)
    own = Tolerance(1e-5, 1e-3)
    assert compare(expected, expected + np.float32(5e-3), own, noise=1.0).problem


def test_the_default_follows_the_size_of_an_output():
    assert scale(Size(1.0, 3.0)) == 1
    assert scale(Size(0.01, 0.1)) == pytest.approx(0.1)
    assert scale(Size(1000.0, 3000.0)) == pytest.approx(100)
    assert scale(Size(0.0, 0.0)) == 1
    probabilities = np.full((2, 30_000), 1 / 30_000, np.float32)
    assert compare(probabilities, probabilities * np.float32(1.2), DEFAULT_TOLERANCES["fp32"]).problem


def test_float32_itself_is_allowed_for_near_zero_in_a_large_output():
    expected = np.array([3000, -2500, 1e-4], np.float32)
    actual = expected + np.array([0, 0, 1e-3], np.float32)
    assert not compare(expected, actual, DEFAULT_TOLERANCES["fp32"]).problem
    assert compare(expected, actual + np.float32(0.1), DEFAULT_TOLERANCES["fp32"]).problem


def test_a_discrete_output_may_differ_in_ten_times_the_share_that_the_source_changes_itself():
    default = DEFAULT_TOLERANCES["fp32"]
    expected = np.zeros(100, np.int64)
    actual = expected.copy()
    actual[:3] = 1
    assert compare(expected, actual, default).problem
    assert not compare(expected, actual, default, noise=0.005).problem
    assert allowance(default, Size(0, 0), 0.0, exact=True).share == 1


@pytest.mark.parametrize(("precision", "wrong"), [("fp16", 1), ("bf16", 1), ("int8", 2)])
def test_a_coarse_precision_may_choose_few_other_classes(precision, wrong):
    tolerance = DEFAULT_TOLERANCES[precision]
    expected = np.eye(20, dtype=np.int64)
    good, bad = expected.copy(), 1 - expected
    good.reshape(-1)[:wrong] = 7
    assert not compare(expected, good, tolerance).problem
    assert compare(expected, bad, tolerance).problem


def test_class_scores_in_int8_must_choose_the_same_classes():
    generator = np.random.default_rng(0)
    expected = generator.normal(0, 0.1, (40, 4)).astype(np.float32)
    expected[:, 0] += 1  # one class always leads
    actual = expected.copy()
    assert not compare(expected, actual, DEFAULT_TOLERANCES["int8"]).problem
    actual[:8, 1] = expected[:8, 0] + np.float32(0.01)  # eight of forty rows choose another one
    assert compare(expected, actual, Tolerance(1, 1, snr_db=3.0, by_element=False, agreement=0.9)).problem
