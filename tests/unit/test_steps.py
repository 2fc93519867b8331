"""What a plan's steps refuse before a child is started, and which of them a route failed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError
from registry_export.graph import ExportPlan, Step
from registry_export.inference import Origin
from registry_export.steps import PlanRun

WANTED = Interface((TensorSpec("x", "float32", ("batch", 4)), TensorSpec("mask", "float32", ("batch", 1))))


def test_no_converter_is_started_for_a_size_that_the_checkpoint_itself_fixes(tmp_path: Path):
    step = Step("onnx", "onnx", {"dynamic_dimensions": {"x": {"1": "width"}}}, 0, "", ("onnx",))
    plan = ExportPlan("pytorch", "torch_module", {"onnx": step}, ())
    source = Origin("pytorch", str(tmp_path), WANTED)
    run = PlanRun(plan, formats={}, children=None, source=source, interface=WANTED, samples="", folder=tmp_path)
    with pytest.raises(ConversionError, match="is one that the checkpoint itself fixes at 4"):
        run.result("onnx")


def test_a_route_that_fails_names_the_first_step_that_did(tmp_path: Path):
    fixed = {"dynamic_dimensions": {"x": {"1": "width"}}}
    steps = {
        "a": Step("a", "onnx", fixed, 0, "", ("pytorch", "onnx")),
        "a/b": Step("a/b", "saved_model", {}, 0, "a", ("pytorch", "onnx", "saved_model")),
        "a/b/c": Step("a/b/c", "tflite", {}, 0, "a/b", ("pytorch", "onnx", "saved_model", "tflite")),
    }
    plan = ExportPlan("pytorch", "torch_module", steps, ())
    source = Origin("pytorch", str(tmp_path), WANTED)
    run = PlanRun(plan, formats={}, children=None, source=source, interface=WANTED, samples="", folder=tmp_path)
    assert run.failed("a/b/c") == ""
    with pytest.raises(ConversionError):
        run.result("a/b/c")
    assert run.failed("a/b/c") == "onnx"
