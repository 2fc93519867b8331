"""What of a plan is on the longest path, by estimates and by what was learnt."""

from __future__ import annotations

import pytest

from registry_export.costs import Expectations, StepCost, size_class
from registry_export.entities import Target
from registry_export.format import ONNX_MODEL, TORCH_MODULE, Conversion, Toolchain
from registry_export.graph import ExportPlan, PlannedTarget, Step
from registry_export.schedule import Schedule
from tests.unit.stub_formats import StubFormat, _convert

MEGABYTE = 1_000_000


def format_of(name: str, kind: str, cost: float) -> StubFormat:
    made = StubFormat()
    made.name = name
    made.conversions = (Conversion(kind, _convert, Toolchain(name), cost=cost),)
    return made


FORMATS = {
    "onnx": format_of("onnx", TORCH_MODULE, 3.0),
    "tensorrt": format_of("tensorrt", ONNX_MODEL, 2.0),
    "openvino": format_of("openvino", ONNX_MODEL, 1.0),
    "coreml": format_of("coreml", TORCH_MODULE, 4.0),
}


class Book:
    """What is remembered, in a dict."""

    def __init__(self, **seconds: float) -> None:
        self.costs = {
            (work.replace("_to_", " to ").replace("__", " "), size_class(50 * MEGABYTE)): StepCost(value, MEGABYTE, 1)
            for work, value in seconds.items()
        }
        self.learnt: list[tuple[str, int, float, int]] = []

    def known(self):
        return self.costs

    def learn(self, *what) -> None:
        self.learnt.append(what)


def planned(variant: str, *routes: str) -> PlannedTarget:
    return PlannedTarget(Target(variant, {}, variant, True), routes)


def step(identity: str, kind: str) -> Step:
    parent, _, name = identity.rpartition("/")
    return Step(identity, name, {}, 0, parent, (kind,))


PLAN = ExportPlan(
    "pytorch",
    TORCH_MODULE,
    {name: step(name, TORCH_MODULE) for name in ("onnx", "onnx/tensorrt", "onnx/openvino", "coreml")},
    (),
)
TARGETS = [
    planned("openvino", "onnx/openvino"),
    planned("coreml", "coreml"),
    planned("tensorrt", "onnx/tensorrt"),
    planned("onnx", "onnx"),
    planned("nowhere"),
]


def schedule(expected: Expectations) -> tuple[Schedule, list[str]]:
    made = Schedule(PLAN, FORMATS, expected)
    return made, [target.target.variant for target in made.longest_first(TARGETS)]


def test_a_step_counts_with_the_longest_chain_that_needs_it_and_its_verification():
    made, order = schedule(Expectations())
    assert made.seconds_from(PLAN.steps["onnx"]) == pytest.approx(3 + 2 + 1)
    assert made.seconds_from(PLAN.steps["onnx/openvino"]) == pytest.approx(1 + 1)
    assert made.seconds_from(PLAN.steps["coreml"]) == pytest.approx(4 + 1)
    assert order == ["tensorrt", "openvino", "coreml", "onnx", "nowhere"]


def test_what_was_learnt_counts_in_place_of_the_estimate():
    book = Book(verify__coreml=30.0)
    made, order = schedule(Expectations(50 * MEGABYTE, book))
    assert made.seconds_from(PLAN.steps["coreml"]) == pytest.approx(30 + 4 * 1.5)
    assert order[0] == "coreml"
    other, order = schedule(Expectations(500 * MEGABYTE, book))
    assert order[0] == "tensorrt", "of another size nothing is known"
    assert other.seconds_from(PLAN.steps["coreml"]) == pytest.approx((4 + 1) * 6)


def test_a_target_that_takes_another_route_no_longer_counts_on_the_first():
    made, _ = schedule(Expectations())
    made.follow("tensorrt", "coreml")
    assert made.seconds_from(PLAN.steps["onnx"]) == pytest.approx(3 + 1 + 1)


def test_an_estimate_grows_with_the_checkpoint():
    small, large = Expectations(MEGABYTE), Expectations(3000 * MEGABYTE)
    assert large.of("convert").peak_bytes > 3 * 3000 * MEGABYTE > small.of("convert").peak_bytes
    assert large.of("convert").seconds > small.of("convert").seconds


def test_what_a_step_took_is_written_under_the_size_of_the_checkpoint():
    book = Book()
    Expectations(50 * MEGABYTE, book).learn("verify coreml", 2.0, 7)
    assert book.learnt == [("verify coreml", size_class(50 * MEGABYTE), 2.0, 7)]
    Expectations(50 * MEGABYTE).learn("verify coreml", 2.0, 7)


def test_sizes_of_one_class_differ_by_less_than_two_times():
    assert size_class(2**20) == size_class(2**21 - 1) != size_class(2**21)
