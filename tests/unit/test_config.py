"""The configuration file: what it gives, and that every mistake is refused with its line, key and choices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_export.config import (
    FACTORY_TAG,
    Configuration,
    Requirement,
    default_configuration,
    format_named,
    load_configuration,
    parse_configuration,
    parse_targets,
    read_requirements,
    requested_setup,
)
from registry_export.entities import Tolerance
from registry_export.errors import ConfigurationError
from registry_export.evaluation_setup import EvaluationSetup
from registry_export.format import Conversion, Option, Toolchain, precision_option, quantization_option
from tests.unit.stub_formats import FORMATS, StubFormat, _convert

FULL = """\
rules:
  - models: "digits*"
    promotions: {stages: [Staging], aliases: [champion, "prod-*"], copied: true}
    targets:
      - onnx
      - onnx: {opset_version: 17}
      - tflite: {scale: 1e-5, device: 89, required: false}
    samples: {path: data/samples.npz}
    tolerance: {atol: 1e-5, rtol: 1}
    on_failure: keep
  - models: "*"
    targets: [torchscript]
"""


def parse(text: str) -> Configuration:
    return parse_configuration(text, "/etc/conf/registry-export.yaml", FORMATS)


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, "r.yaml", FORMATS)
    return str(caught.value)


def test_every_key_of_a_rule_arrives() -> None:
    rule = parse(FULL).rules[0]
    assert (rule.models, rule.stages, rule.aliases, rule.copied) == (
        "digits*",
        ("Staging",),
        ("champion", "prod-*"),
        True,
    )
    assert [target.variant for target in rule.targets] == ["onnx", "onnx-opset17", "tflite-scale1e-05-89"]
    assert [target.required for target in rule.targets] == [True, True, False]
    assert rule.targets[1].options == {"opset_version": 17, "optimize": True, "dynamic_dimensions": None}
    assert rule.targets[2].options == {"scale": 1e-5, "device": "89", "chip": None, "note": ""}
    assert rule.tolerance == Tolerance(1e-5, 1.0)
    assert rule.on_failure == "keep"


def test_what_a_rule_says_of_evaluation_arrives() -> None:
    rule = parse(rule_with(samples="{path: s.npz, labels: y}", evaluate="a.b:f1", max_drop="{f1: 1e-2, loss: -1}"))
    assert rule.rules[0].evaluation == EvaluationSetup("a.b:f1", "y", {"f1": 0.01, "loss": -1.0})


def test_samples_are_relative_to_the_file_and_uris_are_kept() -> None:
    assert parse(FULL).rules[0].samples == "/etc/conf/data/samples.npz"
    uri = FULL.replace("data/samples.npz", "mlflow-artifacts:/1/samples.npz")
    assert parse(uri).rules[0].samples == "mlflow-artifacts:/1/samples.npz"
    assert parse(FULL.replace("data/samples.npz", "/data/s.npz")).rules[0].samples == "/data/s.npz"


@pytest.mark.parametrize(
    ("model", "trigger", "index"),
    [
        ("digits", "stage:Staging", 0),
        ("digits", "stage:Production", 1),
        ("digits", "alias:champion", 0),
        ("digits", "alias:prod-eu", 0),
        ("digits", "alias:canary", 1),
        ("digits", "copied:other/1", 0),
        ("other", "copied:digits/1", None),
        ("digits", "reconciled:stage:Staging", 0),
        ("digits", "manual", 0),
        ("other", "manual", 1),
        ("other", "stage:Archived", None),
        ("other", "nonsense", None),
    ],
)
def test_the_first_rule_that_matches_name_and_promotion_wins(model: str, trigger: str, index: int | None) -> None:
    configuration = parse(FULL)
    assert configuration.rule_for(model, trigger) is (None if index is None else configuration.rules[index])


def test_patterns_do_not_ignore_case() -> None:
    configuration = parse('rules: [{models: "digits", targets: [onnx]}]')
    assert configuration.rule_for("Digits", "manual") is None


def test_promotions_that_are_named_switch_the_others_off() -> None:
    rule = parse('rules: [{models: "*", promotions: {stages: [Production]}, targets: [onnx]}]').rules[0]
    assert (rule.stages, rule.aliases, rule.copied) == (("Production",), (), False)


def rule_with(**fields: str) -> str:
    fields = {"models": '"*"', "targets": "[onnx]"} | fields
    return "rules:\n  -\n" + "".join(f"    {key}: {value}\n" for key, value in fields.items())


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("rule: []", "r.yaml:1: rule: ", ["unknown key 'rule'; did you mean 'rules'?", "choices are rules"]),
        ("- models: x", "r.yaml:1: ", ["must be a mapping", "not a list"]),
        ("hello", "r.yaml:1: ", ["must be a mapping", "'hello'"]),
        ("{}", "r.yaml:1: ", ["'rules' is missing"]),
        ("rules:", "r.yaml:1: rules: ", ["list of rules", "empty"]),
        ("rules: []", "r.yaml:1: rules: ", ["no rule"]),
        ("rules:\n  - x", "r.yaml:2: rules[0]: ", ["must be a mapping"]),
        ("rules:\n  - models: x", "r.yaml:2: rules[0]: ", ["'targets' is missing"]),
        ("rules:\n  - targets: [onnx]", "r.yaml:2: rules[0]: ", ["'models' is missing"]),
        (rule_with(modles="x"), "r.yaml:5: rules[0].modles: ", ["did you mean 'models'?", "promotions, targets"]),
        (rule_with(models="[a]"), "r.yaml:3: rules[0].models: ", ["not a list"]),
        (rule_with(models=""), "r.yaml:3: rules[0].models: ", ["empty"]),
        (rule_with(models="yes"), "r.yaml:3: rules[0].models: ", ["'yes'", "quotes"]),
        (rule_with(models="*"), "r.yaml:3: ", ["quotes", '"*"']),
        (rule_with(promotions="{stage: [Staging]}"), "rules[0].promotions.stage: ", ["did you mean 'stages'?"]),
        (rule_with(promotions="{stages: Staging}"), "rules[0].promotions.stages: ", ["list", "'Staging'"]),
        (
            rule_with(promotions="{stages: [staging]}"),
            "rules[0].promotions.stages[0]: ",
            ["'Staging'?", "Staging, Production"],
        ),
        (rule_with(promotions="{stages: [Archived]}"), "rules[0].promotions.stages[0]: ", ["Staging, Production"]),
        (rule_with(promotions="{aliases: [{}]}"), "rules[0].promotions.aliases[0]: ", ["a mapping"]),
        (rule_with(promotions="{copied: maybe}"), "rules[0].promotions.copied: ", ["true or false", "'maybe'"]),
        (rule_with(targets="onnx"), "r.yaml:4: rules[0].targets: ", ["list of formats"]),
        (rule_with(targets="[]"), "r.yaml:4: rules[0].targets: ", ["no target"]),
        (rule_with(targets="[onx]"), "rules[0].targets[0]: ", ["'onx'", "did you mean 'onnx'?", "tflite"]),
        (rule_with(targets="[pytorch]"), "rules[0].targets[0]: ", ["exported from, not to", "onnx, tflite"]),
        (rule_with(targets="[{onnx: {opset: 17}}]"), ".onnx.opset: ", ["did you mean 'opset_version'?", "optimize"]),
        (rule_with(targets="[{onnx: {opset_version: '17'}}]"), ".opset_version: ", ["whole number", "the text '17'"]),
        (rule_with(targets="[{onnx: {opset_version: 6}}]"), ".opset_version: ", ["6", "7 to 27"]),
        (rule_with(targets="[{onnx: {opset_version: 17.5}}]"), ".opset_version: ", ["whole number", "17.5"]),
        (rule_with(targets="[{onnx: {opset_version: true}}]"), ".opset_version: ", ["whole number", "true"]),
        (rule_with(targets="[{onnx: {optimize: 1}}]"), ".optimize: ", ["true or false", "1"]),
        (rule_with(targets="[{onnx: {precision: int8}}]"), ".precision: ", ["not available for onnx in this version"]),
        (rule_with(targets="[{onnx: {required: 1}}]"), ".required: ", ["true or false"]),
        (rule_with(targets="[{torchscript: {method: jit}}]"), ".method: ", ["'jit'", "trace, script"]),
        (rule_with(targets="[{torchscript: {method: }}]"), ".method: ", ["text", "empty", "trace, script"]),
        (rule_with(targets="[{tflite: {scale: -1}}]"), ".scale: ", ["out of range", "smallest is 0"]),
        (rule_with(targets="[{tflite: {scale: .nan}}]"), ".scale: ", ["out of range"]),
        (rule_with(targets="[{onnx: , opset_version: 17}]"), "targets[0]: ", ["options inside", "onnx, opset_version"]),
        (rule_with(targets="[{onnx: 17}]"), "targets[0].onnx: ", ["must be a mapping", "'17'"]),
        (rule_with(targets="[onnx, {onnx: {}}]"), "targets[1]: ", ["'onnx' stands twice", "first in line 4"]),
        (rule_with(targets="[{onnx: {pruning: 0.3}}]"), ".onnx.pruning: ", ["mapping", "method, amount"]),
        (rule_with(targets="[{onnx: {pruning: {amount: 0.3}}}]"), ".onnx.pruning: ", ["'method' is missing"]),
        (rule_with(targets="[{onnx: {pruning: {n: 2}}}]"), ".onnx.pruning.n: ", ["unknown key 'n'", "method"]),
        (rule_with(targets="[{onnx: {dynamic_dimensions: x}}]"), ".dynamic_dimensions: ", ["mapping"]),
        (rule_with(targets="[{onnx: {dynamic_dimensions: {x: {a: s}}}}]"), ".dynamic_dimensions.x: ", ["not an axis"]),
        (rule_with(targets="[{onnx: {dynamic_dimensions: {x: {1: 's t'}}}}]"), ".dynamic_dimensions.x: ", ["'s t'"]),
        (rule_with(samples="s.npz"), "r.yaml:5: rules[0].samples: ", ["mapping with the keys path"]),
        (rule_with(samples="{}"), "r.yaml:5: rules[0].samples: ", ["'path' is missing"]),
        (rule_with(max_drop="{accuracy: 1}"), "r.yaml:5: rules[0].max_drop: ", ["needs", "samples with labels"]),
        (rule_with(evaluate="a:b", max_drop="{}"), "rules[0].max_drop: ", ["names no metric"]),
        (rule_with(evaluate="a:b", max_drop="{mae: 1}"), "rules[0].max_drop.mae: ", ["better small", "-1"]),
        (rule_with(evaluate="a:b", max_drop="{f1: .nan}"), "rules[0].max_drop.f1: ", ["finite"]),
        (rule_with(evaluate="a.b"), "rules[0].evaluate: ", ["package.module:callable"]),
        (rule_with(samples="{path: s.npz, label: y}"), "rules[0].samples.label: ", ["did you mean 'labels'?"]),
        (rule_with(tolerance="{atol: 1}"), "r.yaml:5: rules[0].tolerance: ", ["'rtol' is missing"]),
        (rule_with(tolerance="{atol: -1, rtol: 0}"), "rules[0].tolerance.atol: ", ["0 or more", "-1"]),
        (rule_with(tolerance="{atol: .inf, rtol: 0}"), "rules[0].tolerance.atol: ", ["finite"]),
        (rule_with(tolerance="{atol: 0, rtol: low}"), "rules[0].tolerance.rtol: ", ["a number", "'low'"]),
        (rule_with(tolerance="{atol: 0, rtol: '1'}"), "rules[0].tolerance.rtol: ", ["a number", "'1'"]),
        (rule_with(on_failure="stop"), "r.yaml:5: rules[0].on_failure: ", ["'stop'", "choices are keep, revert"]),
        (rule_with(models="!!python/name:os.system x"), "rules[0].models: ", ["tag", "not supported"]),
        (
            "rules:\n  - models: a\n    targets: [onnx]\n    models: b",
            "r.yaml:4: rules[0].models: ",
            ["twice", "line 2"],
        ),
        ("", "r.yaml: ", ["is empty"]),
        ("# nothing\n", "r.yaml: ", ["is empty"]),
        ("rules:\n\t- models: x", "r.yaml:2: ", ["a tab"]),
        ("rules: [", "r.yaml:1: ", ["not valid YAML"]),
        ("rules: {a: b", "r.yaml:1: ", ["not valid YAML"]),
        ("a: 1\n---\nb: 2", "r.yaml:2: ", ["not valid YAML", "document"]),
        ("x\n\x00", "r.yaml:2: ", ["'\\x00' is not allowed"]),
        ("[" * 5000, "r.yaml: ", ["nested too deeply"]),
        ('"\\UFFFFFFFF"', "r.yaml", []),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_the_choices(text: str, place: str, words: list[str]) -> None:
    message = refusal(text)
    assert message.startswith("r.yaml")
    assert place in message
    for word in words:
        assert word in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: there is no such file"):
        load_configuration(tmp_path / "absent.yaml", FORMATS)


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(tmp_path, FORMATS)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"rules:\n  - models: caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"r\.yaml:2: is not UTF-8"):
        load_configuration(path, FORMATS)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + FULL.encode())
    assert len(load_configuration(path, FORMATS).rules) == 2


def test_without_a_file_every_model_goes_to_onnx() -> None:
    rule = default_configuration(FORMATS).rule_for("anything", "alias:any")
    assert rule is not None
    assert rule.stages == ("Staging", "Production")
    assert not rule.copied
    assert [target.variant for target in rule.targets] == ["onnx"]


def test_a_rule_names_how_its_checkpoint_becomes_a_model() -> None:
    setup = (
        parse(rule_with(model_factory="nets.mnist:build", wrapper="nets:WithNms", allow_pickle="false")).rules[0].setup
    )
    assert (setup.model_factory, setup.wrapper, setup.allow_pickle) == ("nets.mnist:build", "nets:WithNms", False)
    assert setup.search == ("/etc/conf",)


@pytest.mark.parametrize("value", ["!!int", "!!float", "!!bool", "!!int ''", "!!float '1e999'"])
def test_a_value_that_yaml_itself_stumbles_over_is_refused_in_a_sentence(value: str) -> None:
    assert_rules_or_refusal(rule_with(models=value))


def test_a_rule_may_demand_a_sandbox() -> None:
    words = ("available", "required")
    demanded = {word: parse(rule_with(sandbox=word)).rules[0].setup.walls_required for word in words}
    assert demanded == {"available": False, "required": True}
    assert not parse(rule_with()).rules[0].setup.walls_required
    with pytest.raises(ConfigurationError, match="sandbox"):
        parse(rule_with(sandbox="off"))


@pytest.mark.parametrize("name", ["nets.build", "nets:build()", "nets build", "os:system('x')", ":build"])
def test_a_factory_that_is_no_name_is_refused(name: str) -> None:
    text = refusal(rule_with(model_factory=f'"{name}"'))
    assert "model_factory" in text
    assert "must be written package.module:callable" in text


def test_the_tag_of_a_version_names_its_factory_over_the_rules() -> None:
    rule = parse(rule_with(model_factory="nets:build", wrapper="nets:wrap")).rules[0]
    setup = requested_setup(rule, {FACTORY_TAG: " other:make "}, "m/1")
    assert (setup.model_factory, setup.wrapper) == ("other:make", "nets:wrap")
    assert requested_setup(rule, {}, "m/1") == rule.setup
    with pytest.raises(ConfigurationError, match=r"the tag registry_export\.model_factory of m/1"):
        requested_setup(rule, {FACTORY_TAG: "nonsense"}, "m/1")


class Precise(StubFormat):
    name = "precise"
    options = (precision_option("fp32", "int8"), quantization_option("static", "dynamic"))
    conversions = (Conversion("torch_module", _convert, Toolchain("stub")),)


def test_quantization_is_refused_where_nothing_is_quantized() -> None:
    formats = FORMATS | {"precise": Precise()}
    target = parse_targets("precise:precision=int8:quantization=dynamic", "--target", formats)[0]
    assert target.variant == "precise-int8-dynamic"
    with pytest.raises(ConfigurationError, match=r"quantization: says how int8 is reached: it needs precision=int8"):
        parse_targets("precise:quantization=dynamic", "--target", formats)


def test_a_value_with_a_colon_survives_the_notation_of_the_command_line() -> None:
    class Custom(StubFormat):
        name = "custom"
        options = (Option("table", str, "", "custom"), Option("opset", int, 1, "opset{value}"))
        conversions = Precise.conversions

    target = parse_targets("custom:table=pack.mod:TABLE:opset=3", "--target", FORMATS | {"custom": Custom()})[0]
    assert target.options == {"table": "pack.mod:TABLE", "opset": 3}
    assert target.variant == "custom-custom-opset3"
    formats = FORMATS | {"custom": Custom()}
    assert parse_targets("custom:table=top_level:NAME", "--target", formats)[0].options["table"] == "top_level:NAME"
    with pytest.raises(ConfigurationError, match="an option is written name=value, not 'table'"):
        parse_targets("custom:opset=3:table", "--target", formats)


VOCABULARY = r"""
rules models targets promotions stages aliases copied samples tolerance atol rtol path onnx tflite opset_version
dynamic_dimensions required 17 1e400 0x_ -1 true ~ .nan 1:30 2020-01-01 * &a *a !!int !!set << ? | > ' " \U00110000 %
Staging champion keep
"""
KEYS = "models promotions targets samples tolerance on_failure wrapper allow_pickle sandbox evaluate max_drop"
WORDS = st.sampled_from(VOCABULARY.split())
SEPARATORS = st.sampled_from([" ", ": ", ", ", "\n", "\n  ", "\n  - ", "[", "]", "{", "}", "- ", "\t", "---\n"])
SOUP = st.lists(st.one_of(WORDS, SEPARATORS), max_size=40).map("".join)
VALUES = st.recursive(st.one_of(WORDS, st.none().map(str)), lambda v: st.lists(v).map(lambda i: f"[{', '.join(i)}]"))


def assert_rules_or_refusal(text: str) -> None:
    refused = ""
    try:
        rules = parse_configuration(text, "r.yaml", FORMATS).rules
    except ConfigurationError as error:
        rules, refused = (), str(error)
    assert rules or re.match(r"r\.yaml(:\d+)?: ", refused)


@given(st.one_of(st.text(), SOUP))
def test_any_text_is_a_configuration_or_a_refusal(text: str) -> None:
    assert_rules_or_refusal(text)


@given(
    st.sampled_from(KEYS.split()),
    st.one_of(VALUES, SOUP, st.text()),
)
def test_any_value_of_a_key_is_a_rule_or_a_refusal(key: str, value: str) -> None:
    assert_rules_or_refusal(rule_with(**{key: value}))


def test_a_refusal_without_a_place_does_not_begin_with_a_colon() -> None:
    with pytest.raises(ConfigurationError, match=r"^unknown format 'onxx'"):
        format_named({}, "onxx")


def test_the_rule_behind_an_export_is_that_of_its_trigger_else_the_models_first():
    text = """
rules:
  - {models: digits, promotions: {aliases: [champion]}, targets: [onnx]}
  - {models: digits, promotions: {stages: [Staging]}, targets: [torchscript]}
"""
    configuration = parse_configuration(text, "r", FORMATS)
    first, second = configuration.rules
    assert configuration.rule_behind("digits", "reconciled:stage:Staging") is second
    assert configuration.rule_behind("digits", "alias:champion") is first
    assert configuration.rule_behind("digits", "stage:Production") is configuration.rule_behind("digits", "") is first
    assert configuration.rule_behind("other", "manual") is None


REQUIRE = "{stages: [Production], aliases: ['prod*'], targets: [onnx, tflite], approvals: [alice]}"


def test_what_a_rule_requires_is_read_alike_by_server_and_worker() -> None:
    text = rule_with(models="'digits*'", targets="[onnx, tflite]", require=REQUIRE, gate="strict")
    required = parse(text).rules[0].requires
    assert required == Requirement(("Production",), ("prod*",), ("onnx", "tflite"), ("alice",), strict=True)
    on_server = read_requirements(text.replace("targets: [onnx, tflite]\n", "targets: [a format of others]\n", 1), "r")
    assert on_server.of("digits-1", "stage:Production") == required
    assert on_server.of("digits-1", "alias:prod-eu") == required
    assert on_server.of("digits-1", "alias:champion") is on_server.of("digits-1", "stage:Staging") is None
    assert on_server.of("other", "stage:Production") is None


def test_by_default_nothing_is_required_and_gates_are_open_and_take_no_approval() -> None:
    assert parse(rule_with()).rules[0].requires is None
    required = parse(rule_with(require="{stages: [Production], targets: [onnx]}")).rules[0].requires
    assert required == Requirement(("Production",), (), ("onnx",), (), strict=False)
    everybody = parse(rule_with(require="{stages: [Production], targets: [onnx], approvals: true}")).rules[0].requires
    assert everybody is not None
    assert everybody.approvals == ("*",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gate": "strict"}, ["gate: ", "the rule has none"]),
        ({"require": "{targets: [onnx]}"}, ["require: names neither stages nor aliases"]),
        ({"require": "{stages: [Production]}"}, ["require: names no targets"]),
        ({"require": "{stages: [Archived], targets: [onnx]}"}, ["stages[0]: ", "Staging, Production"]),
        ({"require": "{stages: [Staging], targets: [tflite]}"}, ["targets[0]: ", "'tflite'", "the choices are onnx."]),
        ({"require": "{stages: [Staging], targets: [onnx], approvals: 3}"}, ["approvals: must be true or false"]),
        ({"require": "{stages: [Staging], targets: [onnx]}", "gate": "closed"}, ["gate: ", "open, strict"]),
        ({"on_success": "{}"}, ["'set_alias' is missing"]),
        ({"on_success": "{set_alias: '{alias}'}"}, ["must end in -verified"]),
        ({"on_success": "{set_alias: '{model}-verified'}"}, ["{alias} or {stage}"]),
        ({"on_success": "{set_alias: '{stage}-verified'}", "promotions": "{aliases: [a]}"}, ["name no stages"]),
        ({"on_success": "{set_alias: '{alias}-verified'}", "promotions": "{stages: [Staging]}"}, ["name no aliases"]),
    ],
)
def test_what_would_never_work_is_refused_in_its_line(fields: dict[str, str], words: list[str]) -> None:
    said = refusal(rule_with(**fields))
    assert re.match(r"r.yaml:\d+: rules\[0\]\.", said)
    assert [word for word in words if word not in said] == [], said


@pytest.mark.parametrize(
    ("pattern", "trigger", "alias"),
    [
        ("{alias}-verified", "alias:champion", "champion-verified"),
        ("{alias}-verified", "reconciled:alias:champion", "champion-verified"),
        ("{alias}-verified", "stage:Staging", ""),
        ("{stage}-verified", "stage:Staging", "staging-verified"),
        ("{stage}-verified", "alias:champion", ""),
        ("good-verified", "stage:Staging", "good-verified"),
        ("good-verified", "alias:champion", "good-verified"),
        ("good-verified", "manual", ""),
        ("good-verified", "copied:other/1", ""),
    ],
)
def test_the_second_alias_is_named_after_what_the_version_was_promoted_to(
    pattern: str, trigger: str, alias: str
) -> None:
    rule = parse(rule_with(on_success=f"{{set_alias: '{pattern}'}}")).rules[0]
    assert rule.verified_alias_for(trigger) == alias
