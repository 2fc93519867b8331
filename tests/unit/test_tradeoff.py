"""Which variant to take, as the reports say and draw it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_export.entities import Status
from registry_export.report import to_html, to_markdown
from registry_export.report.tradeoff import tradeoff_of
from tests.unit.test_pareto import FP32, INT8, report, result

BEATEN = result("onnx-fp16", 410, 1.5, 0.97)
LOST = replace(
    result("onnx-global90", 400, 1.0, 0.3, Status.MISMATCH),
    evaluation_reason="accuracy fell from 0.97 to 0.3, by 0.67: the rule allows 0.01",
    sparsity=0.875,
)


def test_the_front_the_beaten_and_the_left_out_are_named_in_words():
    assert tradeoff_of(report(FP32, INT8, BEATEN, LOST)).sentence == (
        "On the Pareto front of size, accuracy and time of a call: onnx-int8, onnx. "
        "Beaten by another one in something and in nothing better: onnx-fp16. "
        "Not compared: onnx-global90 (it is mismatch)."
    )


def test_the_plot_shows_every_variant_and_fetches_nothing():
    plot = tradeoff_of(report(FP32, INT8, BEATEN)).plot
    assert 'aria-label="accuracy over size: 1: onnx-int8, 110 B, 0.96; 2: onnx, 400 B, 0.97;' in plot
    assert [f">{number}<" in plot for number in (1, 2, 3)] == [True] * 3
    assert "<use" not in plot, "what is defined once is not in the page"


@pytest.mark.parametrize("others", [(), (LOST,)])
def test_one_variant_alone_is_no_plot(others):
    found = tradeoff_of(report(FP32, *others))
    assert (found.plot, found.found.front) == ("", ("onnx",))


def test_both_reports_say_how_good_each_variant_is_and_what_it_lost():
    told = report(FP32, INT8, LOST, max_drop={"accuracy": 0.01})
    for text in (to_html(told), to_markdown(told)):
        assert "accuracy 0.96 (the source 0.97, at most 0.01 less is allowed)" in text
        assert "accuracy fell from 0.97 to 0.3, by 0.67: the rule allows 0.01" in text
        assert "On the Pareto front of size, accuracy and time of a call: onnx-int8, onnx." in text
    assert "87.5 % of all parameters" in to_html(told)


def test_a_version_that_nobody_evaluated_has_no_such_section():
    assert "Which variant" not in to_html(report(FP32, evaluation={}))
