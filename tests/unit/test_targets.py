"""The notation of targets, and the variants that name them everywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_export.config import make_target, parse_configuration, parse_targets, variant_of
from registry_export.errors import ConfigurationError
from tests.unit.stub_formats import FORMATS


def variants(text: str) -> list[str]:
    return [target.variant for target in parse_targets(text, "--target", FORMATS)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnx", ["onnx"]),
        (" onnx , onnx:opset_version=17,", ["onnx", "onnx-opset17"]),
        ("onnx:optimize=false:opset_version=9", ["onnx-opset9-optimize-false"]),
        ("torchscript:method=script:freeze=yes", ["torchscript-script-frozen"]),
        ("onnx:dynamic_dimensions=x.1=seq+mask.1=seq", ["onnx-dyn-mask_1-x_1"]),
        ("tflite:scale=2:device=sm 89/é", ["tflite-scale2.0-sm_89__"]),
        ("onnx:pruning=method=global+amount=0.07:opset_version=17", ["onnx-opset17-global7"]),
    ],
)
def test_a_variant_names_what_differs_from_the_default_in_declared_order(text: str, expected: list[str]) -> None:
    assert variants(text) == expected


def test_both_notations_of_pruning_give_the_same_target_and_no_other_target_has_the_option() -> None:
    line = parse_targets("onnx:pruning=amount=0.3+method=l1_unstructured", "--target", FORMATS)
    text = "rules: [{models: m, targets: [onnx: {pruning: {method: l1_unstructured, amount: 0.3}}]}]"
    assert parse_configuration(text, "r", FORMATS).rules[0].targets == line
    assert line[0].options["pruning"] == {"method": "l1_unstructured", "amount": 0.3}
    assert "pruning" not in parse_targets("onnx", "--target", FORMATS)[0].options


def test_options_that_are_the_defaults_do_not_enter_the_variant() -> None:
    assert variants("onnx:optimize=true:required=false") == ["onnx"]
    assert variant_of(FORMATS["onnx"], {}) == "onnx"


def test_required_is_read_and_is_no_option() -> None:
    target = parse_targets("onnx:required=false", "--target", FORMATS)[0]
    assert not target.required
    assert "required" not in target.options


def test_both_notations_of_dynamic_dimensions_give_the_same_target() -> None:
    line = parse_targets("onnx:dynamic_dimensions=x.1=seq+x.2", "--target", FORMATS)
    for axes in ("{1: seq, 2: x_2}", "{2: x_2, 1: seq}"):
        text = f"rules: [{{models: m, targets: [onnx: {{dynamic_dimensions: {{x: {axes}}}}}]}}]"
        assert parse_configuration(text, "r", FORMATS).rules[0].targets == line
    assert line[0].options["dynamic_dimensions"] == {"x": {"1": "seq", "2": "x_2"}}


def test_an_axis_without_a_name_gets_one_that_every_toolchain_takes() -> None:
    text = 'rules: [{models: m, targets: [onnx: {dynamic_dimensions: {"0-in/x": [1]}}]}]'
    target = parse_configuration(text, "r", FORMATS).rules[0].targets[0]
    assert target.options["dynamic_dimensions"] == {"0-in/x": {"1": "dim_0_in_x_1"}}
    assert target.variant == "onnx-dyn-0-in_x_1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["names no target", "onnx, tflite, torchscript"]),
        (" , ", ["names no target"]),
        ("onx", ["unknown format 'onx'; did you mean 'onnx'?", "onnx, tflite"]),
        ("pytorch", ["exported from, not to"]),
        ("onnx:opset_version", ["onnx: ", "name=value", "'opset_version'"]),
        ("onnx:opset_version=", ["name=value"]),
        ("onnx:", ["name=value"]),
        ("tflite:note=package.module:TABLE:scale", ["tflite: ", "name=value, not 'scale'"]),
        ("tflite:device=sm89:required", ["name=value, not 'required'"]),
        ("onnx:opset=17", ["onnx.opset: ", "did you mean 'opset_version'?"]),
        ("onnx:opset_version=x", ["onnx.opset_version: ", "whole number", "the text 'x'", "7 to 27"]),
        ("onnx:opset_version=99", ["99 is out of range", "7 to 27"]),
        ("onnx:opset_version=9:opset_version=10", ["stands twice"]),
        ("onnx:optimize=maybe", ["true or false", "'maybe'"]),
        ("onnx:required=maybe", ["true or false"]),
        ("onnx, onnx:optimize=true", ["'onnx' stands twice"]),
        ("tflite:chip=sm89x", ["tflite.chip: must be a chip, as sm89, not 'sm89x'"]),
        ("torchscript:method=jit", ["'jit'", "trace, script"]),
        ("onnx:pruning=0.3", ["onnx.pruning: ", "no part '0.3'", "method, amount"]),
        ("onnx:pruning=method=global", ["onnx.pruning: ", "'amount' is missing"]),
        ("onnx:pruning=method=l2+amount=0.3", ["pruning.method: ", "'l2'", "l1_unstructured, ln_structured, global"]),
        ("onnx:pruning=method=global+amount=1", ["pruning.amount: ", "out of range", "0.01 to 0.99"]),
        ("onnx:pruning=method=global+amount=x", ["pruning.amount: ", "a number", "the text 'x'"]),
        ("onnx:precision=int8", ["not available for onnx in this version"]),
        ("onnx:dynamic_dimensions=x", ["input.axis=name", "'x'"]),
        ("onnx:dynamic_dimensions=x.-1=seq", ["'-1' is not an axis"]),
        ("onnx:dynamic_dimensions=x.1=1st", ["'1st' cannot name a dimension"]),
    ],
)
def test_a_mistake_is_refused_with_the_target_and_the_choices(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_targets(text, "--target", FORMATS)
    assert str(caught.value).startswith("--target: ")
    for word in words:
        assert word in str(caught.value)


def test_python_callers_are_checked_too() -> None:
    assert make_target(FORMATS["onnx"], {"opset_version": 18}).variant == "onnx-opset18"
    with pytest.raises(ConfigurationError, match="has no option 'opset'"):
        make_target(FORMATS["onnx"], {"opset": 18})


def test_long_variants_stay_apart_and_fit_a_tag() -> None:
    first, second = (make_target(FORMATS["tflite"], {"note": "a" * 200 + ending}).variant for ending in ("b", "c"))
    assert first != second
    assert len(first) <= 100


@given(st.text(max_size=150))
def test_every_variant_is_a_legal_tag_key_metric_name_and_folder(note: str) -> None:
    variant = make_target(FORMATS["tflite"], {"note": note}).variant
    assert re.fullmatch(r"tflite[A-Za-z0-9_.-]{0,94}", variant)


@given(st.one_of(st.text(), st.lists(st.sampled_from(list("onnx:=,+. 1x") + list(FORMATS)), max_size=30).map("".join)))
def test_any_text_is_targets_or_a_refusal(text: str) -> None:
    refused = ""
    try:
        targets = parse_targets(text, "--target", FORMATS)
    except ConfigurationError as error:
        targets, refused = (), str(error)
    assert targets or refused.startswith("--target: ")
