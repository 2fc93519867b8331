"""Size against metric against latency: which variants nothing beats, and which cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_export.entities import ExportReport, ModelVersionRef, SourceRecord, Status, TargetResult, Verification
from registry_export.pareto import compared, pareto_front

POINTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.tuples(*[st.integers(0, 4)] * 3), min_size=1)


def test_what_is_beaten_in_everything_is_not_on_the_front():
    points = {"small": (1, 9, 5), "fast": (5, 9, 1), "good": (9, 1, 9), "beaten": (5, 9, 5), "worst": (9, 9, 9)}
    assert pareto_front(points) == ("small", "fast", "good")


def test_equal_variants_are_both_on_the_front():
    assert pareto_front({"a": (1, 1), "b": (1, 1), "c": (1, 2)}) == ("a", "b")


@given(POINTS)
def test_the_front_is_never_empty_and_beats_all_that_is_not_on_it(points):
    front = pareto_front(points)
    assert front
    for name, point in points.items():
        beaten = any(all(a <= b for a, b in zip(points[o], point, strict=True)) and points[o] != point for o in front)
        assert beaten == (name not in front)


def result(variant, size, latency, value, status=Status.VERIFIED, key="k"):
    verification = Verification(status, latency_ms=latency)
    evaluation = {} if value is None else {"accuracy": value}
    return TargetResult(
        variant,
        "onnx",
        {},
        status,
        size_bytes=size,
        verification=verification,
        evaluation=evaluation,
        evaluation_key=key,
    )


def report(*results, **source):
    known = {"evaluation": {"accuracy": 0.97}, "evaluation_key": "k"} | source
    record = SourceRecord("pytorch", "torch_module", **known)
    return ExportReport(ModelVersionRef("m", "1"), "manual", record, results, Status.VERIFIED)


FP32 = result("onnx", 400, 1.0, 0.97)
INT8 = result("onnx-int8", 110, 0.7, 0.96)


def test_every_variant_that_gives_something_up_for_something_is_on_the_front():
    found = compared(report(FP32, INT8, result("onnx-fp16", 410, 1.5, 0.97)))
    assert found.front == ("onnx-int8", "onnx")
    assert [candidate.variant for candidate in found.candidates] == ["onnx-int8", "onnx", "onnx-fp16"]
    assert (found.metric, found.is_better_large) == ("accuracy", True)


def test_the_third_digit_of_a_time_beats_nobody():
    assert compared(report(FP32, replace(FP32, variant="b", size_bytes=401))).front == ("onnx",)
    faster = replace(FP32, variant="b", size_bytes=401, verification=Verification(Status.VERIFIED, latency_ms=0.998))
    assert compared(report(FP32, faster)).front == ("onnx",)


def test_without_any_time_size_and_metric_are_compared():
    untimed = [replace(r, verification=Verification(Status.VERIFIED)) for r in (FP32, INT8)]
    assert compared(report(*untimed)).front == ("onnx-int8", "onnx")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (result("x", 1, 0.1, 1.0, Status.MISMATCH), "it is mismatch"),
        (result("x", 1, 0.1, 1.0, Status.UNVERIFIED), "it is unverified"),
        (result("x", 1, 0.1, None), "not evaluated as the source was"),
        (result("x", 1, 0.1, 1.0, key="other"), "not evaluated as the source was"),
        (result("x", 1, None, 1.0), "could not be timed"),
    ],
)
def test_what_cannot_be_compared_is_left_out_and_said(other, why):
    found = compared(report(FP32, INT8, other))
    assert "x" not in found.front
    assert why in dict(found.left_out)["x"]


def test_of_an_error_less_is_better_and_so_it_is_of_what_the_rule_limits_with_a_minus():
    good, bad = (replace(FP32, variant=v, evaluation={"loss": x}) for v, x in (("good", 0.1), ("bad", 0.2)))
    assert compared(report(good, bad, evaluation={"loss": 0.1}, max_drop={"loss": -0.1})).front == ("good",)
    good, bad = (replace(FP32, variant=v, evaluation={"mae": x}) for v, x in (("good", 0.1), ("bad", 0.2)))
    assert compared(report(good, bad, evaluation={"mae": 0.1})).front == ("good",)


def test_a_version_that_nobody_evaluated_has_no_front():
    assert compared(report(FP32, evaluation={})) is None
