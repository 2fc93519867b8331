from __future__ import annotations

import pytest

from registry_export.config import parse_targets
from registry_export.entities import Target
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    ONNX_MODEL,
    TF_FUNCTION,
    TORCH_MODULE,
    Conversion,
    Option,
    Toolchain,
)
from registry_export.graph import plan_export, sources_of
from tests.unit.stub_formats import StubFormat, _convert

T = Toolchain("stub")


def edge(kind, cost=1.0, **rest):
    return Conversion(kind, _convert, T, cost, **rest)


class PyTorch(StubFormat):
    name = "pytorch"
    kind = TORCH_MODULE
    conversions = ()


class Keras(StubFormat):
    name = "keras"
    kind = "keras_model"
    conversions = ()


class Onnx(StubFormat):
    name = "onnx"
    kind = ONNX_MODEL
    options = (Option("opset_version", int, None, "opset{value}"), DYNAMIC_DIMENSIONS)
    conversions = (edge(TORCH_MODULE), edge(TF_FUNCTION), edge(ONNX_MODEL))


class SavedModel(StubFormat):
    name = "saved_model"
    kind = TF_FUNCTION
    conversions = (edge("keras_model"), edge(ONNX_MODEL))


class TFLite(StubFormat):
    name = "tflite"
    conversions = (
        edge(TF_FUNCTION),
        edge(TORCH_MODULE, 5.0, label="direct"),
        edge("keras_model", accepts=lambda options: "not today"),
    )


class Broken(StubFormat):
    name = "broken"
    requirements = ("no_such_package",)
    conversions = (edge(TORCH_MODULE),)


FORMATS = {f.name: f for f in (PyTorch(), Keras(), Onnx(), SavedModel(), TFLite(), Broken())}


def plan(source: str, *targets: str):
    wanted = tuple(t for text in targets for t in parse_targets(text, "test", FORMATS))
    return plan_export(FORMATS[source], wanted, FORMATS)


def test_a_direct_conversion_is_one_step():
    planned = plan("pytorch", "onnx")
    assert planned.targets[0].routes == ("onnx",)
    assert planned.steps["onnx"].path == ("pytorch", "onnx")


def test_shared_intermediates_are_made_once():
    planned = plan("pytorch", "onnx", "saved_model", "tflite")
    assert planned.targets[1].routes[0] == "onnx/saved_model"
    assert planned.targets[2].routes == ("onnx/saved_model/tflite", "tflite(direct)")
    assert list(planned.steps) == ["onnx", "onnx/saved_model", "onnx/saved_model/tflite", "tflite(direct)"]


def test_the_cheaper_route_comes_first_and_none_visits_a_format_twice():
    for route in plan("pytorch", "onnx", "tflite").steps.values():
        assert len(set(route.path)) == len(route.path)


def test_two_variants_are_two_steps():
    assert [t.routes for t in plan("pytorch", "onnx, onnx:opset_version=17").targets] == [("onnx",), ("onnx-opset17",)]


def test_an_onnx_source_can_become_another_opset():
    assert plan("onnx", "onnx:opset_version=17").targets[0].routes == ("onnx-opset17",)


def test_requested_dimensions_reach_the_intermediates():
    planned = plan_export(
        FORMATS["pytorch"],
        (Target("onnx", {"opset_version": None, "dynamic_dimensions": {"x": {"1": "seq"}}}, "onnx-dyn-x_1"),),
        FORMATS,
    )
    assert planned.steps["onnx-dyn-x_1"].options["dynamic_dimensions"] == {"x": {"1": "seq"}}


def test_a_target_without_a_route_says_where_it_can_be_reached_from():
    class Script(StubFormat):
        name = "script"
        conversions = (edge(TORCH_MODULE),)

    formats = FORMATS | {"script": Script()}
    planned = plan_export(FORMATS["keras"], parse_targets("script, onnx", "test", formats), formats)
    error = planned.targets[0].error
    assert error is not None
    assert error.type == "UnsupportedTargetError"
    assert "It can be made from: pytorch" in error.message
    assert planned.targets[1].routes == ("saved_model/onnx",)


def test_options_that_no_edge_serves_are_refused_with_the_edges_reason():
    class Header(StubFormat):
        name = "header"
        options = (Option("symbol", str, "model", "{value}"),)
        conversions = (edge(ONNX_MODEL, accepts=lambda options: f"no {options['symbol']}"),)

    formats = FORMATS | {"header": Header()}
    planned = plan_export(FORMATS["pytorch"], parse_targets("header:symbol=x", "test", formats), formats)
    error = planned.targets[0].error
    assert error is not None
    assert "header-x cannot be made from a pytorch checkpoint: no x." in error.message


def test_a_missing_package_is_named_with_what_installs_it():
    error = plan("pytorch", "broken").targets[0].error
    assert error is not None
    assert error.type == "MissingPackageError"
    assert "no_such_package" in error.message


@pytest.mark.parametrize(
    ("name", "expected"), [("tflite", ("keras", "onnx", "pytorch", "saved_model")), ("pytorch", ())]
)
def test_the_sources_of_a_format_are_all_that_lead_there(name, expected):
    assert tuple(sorted(sources_of(FORMATS[name], FORMATS))) == expected


def test_what_is_said_to_lead_to_a_format_is_what_a_plan_takes():
    planned = plan("saved_model", "saved_model").targets[0]
    assert planned.error is not None  # through ONNX and back it would only lose
    assert "saved_model" not in sources_of(FORMATS["saved_model"], FORMATS)
    assert planned.error.message.endswith("It can be made from: keras, onnx, pytorch.")


class PreciseOnnx(Onnx):
    options = (*Onnx.options, Option("precision", str, "fp32", "{value}", ("fp32", "fp16", "int8")))
    conversions = (
        edge(TORCH_MODULE, calibrates=lambda options: options["precision"] == "int8"),
        edge(ONNX_MODEL, calibrates=lambda options: options["precision"] == "int8"),
    )


class Engine(StubFormat):
    name = "engine"
    options = (Option("precision", str, "fp32", "{value}", ("fp32", "fp16", "int8")),)
    conversions = (
        edge(ONNX_MODEL, intermediate=lambda o: {} if o["precision"] == "fp32" else {"precision": o["precision"]}),
    )


PRECISE = {f.name: f for f in (PyTorch(), PreciseOnnx(), Engine())}


def plan_engine(source: str, target: str, samples: bool = True):
    return plan_export(PRECISE[source], parse_targets(target, "test", PRECISE), PRECISE, samples=samples).targets[0]


def test_an_edge_asks_its_intermediate_for_what_the_target_needs():
    assert plan_engine("pytorch", "engine").routes == ("onnx/engine",)
    assert plan_engine("pytorch", "engine:precision=fp16").routes == ("onnx-fp16/engine-fp16",)


def test_a_source_that_is_the_intermediate_is_remade_where_something_is_asked_of_it():
    assert plan_engine("onnx", "engine").routes == ("engine",)
    assert plan_engine("onnx", "engine:precision=fp16").routes == ("onnx-fp16/engine-fp16",)


def test_calibration_without_samples_is_refused_with_the_reason_and_the_remedy():
    assert plan_engine("pytorch", "engine:precision=int8").routes == ("onnx-int8/engine-int8",)
    error = plan_engine("pytorch", "engine:precision=int8", samples=False).error
    assert error is not None
    assert error.type == "UnsupportedTargetError"
    assert "engine-int8 cannot be made: it is calibrated on real inputs" in error.message
    assert "input_example" in error.message
    assert plan_engine("pytorch", "engine:precision=fp16", samples=False).routes
