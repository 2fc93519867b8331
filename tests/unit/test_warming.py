from __future__ import annotations

from registry_export.config import parse_targets
from registry_export.config.rules import Configuration, Rule
from registry_export.discovery import discover_formats
from registry_export.graph import needed_toolchains, plan_export
from registry_export.worker.warming import wanted_toolchains

FORMATS = discover_formats()


def wanted(*rules: str) -> list[str]:
    made = tuple(Rule("*", (), (), False, tuple(parse_targets(text, "the test", FORMATS))) for text in rules)
    return [toolchain.name for toolchain in wanted_toolchains(Configuration(made), FORMATS)]


def needed(source: str, text: str) -> list[str]:
    plan = plan_export(FORMATS[source], tuple(parse_targets(text, "the test", FORMATS)), FORMATS)
    return [toolchain.name for toolchain in needed_toolchains(plan, plan.targets, FORMATS)]


def test_a_worker_starts_what_the_rules_targets_need_once_and_nothing_else():
    assert wanted("torchscript") == ["torch"]
    assert wanted("torchscript", "torchscript, executorch") == ["torch", "executorch"]
    assert set(wanted("onnx")) == {"torch", "onnx", "tensorflow"}


def test_what_most_sources_need_is_started_first():
    assert wanted("onnx")[0] == "torch"


def test_no_environment_of_its_own_is_made_before_it_is_needed():
    assert FORMATS["mxnet"].toolchain.python is not None
    assert FORMATS["mxnet"].toolchain.name not in wanted("onnx, tflite")


def test_no_rule_no_parent():
    assert wanted() == []


def test_an_export_starts_its_own_toolchains_in_the_order_of_need():
    assert needed("pytorch", "onnx") == ["torch", "onnx"]
    assert needed("pytorch", "mnn, coreml") == ["torch", "mnn", "torch_coreml", "coreml"]
    assert "tensorflow" not in needed("pytorch", "onnx, coreml, executorch, ncnn, mnn, openvino, tensorrt")
    assert needed("keras", "saved_model") == ["tensorflow"]
