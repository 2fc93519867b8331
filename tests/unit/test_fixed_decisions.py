"""A file that a trace has left with one side of a decision is never called verified."""

from __future__ import annotations

import pathlib
from typing import Any, cast

import pytest

from registry_export.entities import Description, Interface, Status, TargetResult, Verification
from registry_export.findings import one_sided, proven
from registry_export.format import FIXED_DECISION, ConversionResult
from registry_export.graph import Step
from registry_export.inference import Origin
from registry_export.steps import StepResult

NOTE = f"{FIXED_DECISION} in line 3 of net.py (`if x.sum() > 0:`): inputs that decide otherwise come out wrong."


def step(identity: str, parent: str, *notes: str) -> StepResult:
    interface = Interface(inputs=())
    return StepResult(
        Step(identity, "onnx", {}, 0, parent, ("pytorch",)),
        pathlib.Path(),
        Origin("onnx", "", interface),
        Description(interface),
        ConversionResult(notes=notes),
        0.0,
        (),
    )


class Run:
    """What `one_sided` asks of a `PlanRun`: the steps that a step came from."""

    def __init__(self, *results: StepResult) -> None:
        self.results = {result.step.id: result for result in results}
        self.plan = self
        self.steps = {result.step.id: result.step for result in results}

    def result(self, identity: str) -> StepResult:
        return self.results[identity]


def result(note: str) -> TargetResult:
    return TargetResult("tflite", "tflite", {}, Status.VERIFIED, one_sided=note)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((), (), Status.VERIFIED), ((), (NOTE,), Status.UNVERIFIED), ((NOTE,), ("Static.",), Status.UNVERIFIED)],
)
def test_a_decision_that_a_trace_fixed_anywhere_on_the_way_leaves_the_rest_unproven(first, second, expected):
    made, later = step("onnx", "", *first), step("onnx/tflite", "onnx", *second)
    verification = proven(Verification(Status.VERIFIED), result(one_sided(cast(Any, Run(made, later)), later)))
    assert verification.status is expected
    assert ("line 3 of net.py" in verification.reason) is (expected is Status.UNVERIFIED)


def test_what_is_wrong_already_stays_what_it_is():
    made = step("ncnn", "", NOTE)
    mismatch = Verification(Status.MISMATCH, reason="off")
    assert proven(mismatch, result(one_sided(cast(Any, Run(made)), made))) == mismatch
