"""Which runtimes take what would be made; the tables and the page that is made from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_export.compatibility import needs_of, numbers, unmet, with_needs
from registry_export.config import parse_configuration, parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import Description, Interface
from registry_export.errors import ConfigurationError
from registry_export.graph import plan_export
from registry_export_plugins._compatibility import need, oldest, tables
from registry_export_plugins.coreml import CoreML
from registry_export_plugins.onnx import Onnx
from registry_export_plugins.tensorrt import TensorRT

FORMATS = discover_formats()


def planned(source, targets, served=None):
    return with_needs(
        plan_export(FORMATS[source], parse_targets(targets, "test", FORMATS), FORMATS), FORMATS, served or {}
    )


def test_a_table_never_goes_back_to_an_older_runtime_for_a_newer_file():
    for name, table in tables().items():
        versions = [numbers(version) for version in table["oldest"].values()]
        assert versions == sorted(versions), name
        assert table["sources"], name


def test_a_plan_says_which_onnx_runtime_reads_the_opset():
    (target,) = planned("keras", "onnx:opset_version=17").targets
    assert [(need.runtime, need.oldest) for need in target.needs] == [("onnxruntime", "1.12")]


def test_what_pytorch_exports_needs_the_runtime_of_its_ir_version_too():
    new, old = planned("pytorch", "onnx:opset_version=18, onnx:opset_version=17").targets
    assert [need.oldest for need in new.needs] == ["1.14", "1.18"]
    assert "IR version 10" in new.needs[1].text
    assert [need.oldest for need in old.needs] == ["1.12"]


def test_a_copy_of_an_onnx_source_promises_nothing_before_it_is_read():
    assert planned("onnx", "onnx").targets[0].needs == ()


def test_a_finished_file_speaks_for_itself():
    description = Description(Interface(()), opset_version=13, ir_version=7)
    assert [n.oldest for n in needs_of(Onnx(), {}, "torch_module", description)] == ["1.6", "1.3"]


def test_a_runtime_that_is_too_old_is_warned_of_before_anything_is_made():
    served = {"onnxruntime": "1.16", "ios": "17"}
    onnx, coreml = planned("pytorch", "onnx, coreml", served).targets
    assert onnx.warnings[0].startswith("It is to be read by onnxruntime 1.16, and needs ONNX Runtime 1.17 or newer")
    assert coreml.warnings == ()


def test_a_runtime_that_is_not_known_is_refused_with_the_choices():
    with pytest.raises(ConfigurationError, match=r"'onnxrt' is no runtime that is known \(known are onnxruntime, ios"):
        planned("keras", "onnx", {"onnxrt": "1"})
    with pytest.raises(ConfigurationError, match="is no version"):
        planned("keras", "onnx", {"onnxruntime": "new"})


def test_versions_are_compared_as_numbers():
    assert list(unmet([need("onnxruntime", 18)], {"onnxruntime": "1.9"}))
    assert not list(unmet([need("onnxruntime", 18)], {"onnxruntime": "1.14.0"}))
    assert numbers("1.20.0") == numbers("1.20") > numbers("1.9.3")


def test_a_value_beyond_the_table_is_not_guessed():
    assert oldest("onnxruntime", 99) == ""
    assert "newer than what the table" in need("onnxruntime", 99).text


def test_core_mls_deployment_targets_are_the_tables():
    pytest.importorskip("coremltools", reason="its own account of the specification versions")
    from importlib.util import find_spec

    text = Path(find_spec("coremltools").submodule_search_locations[0], "__init__.py").read_text()
    for version, release in tables()["ios"]["oldest"].items():
        assert f"_SPECIFICATION_VERSION_IOS_{release} = {version}" in text
    ios, macos = needs_of(CoreML(), {"minimum_deployment_target": "iOS16"}, "torch_module")
    assert (ios.oldest, macos.oldest) == ("16", "13")


def test_an_engine_runs_in_the_version_that_builds_it_on_the_gpus_it_is_built_for():
    runtime, gpu = needs_of(TensorRT(), {"device": "sm80+sm89"}, "onnx_model")
    assert "itself" in runtime.text
    assert gpu.text == "GPUs of compute capability sm80, sm89"


def test_onnxs_own_table_is_ours():
    helper = pytest.importorskip("onnx.helper")
    least = {}
    for _, ir_version, opset, *_ in helper.VERSION_TABLE:
        least.setdefault(opset, str(ir_version))
    assert {opset: ir for opset, ir in least.items() if opset >= 7} == tables()["onnx_ir"]["oldest"]


def test_a_rule_names_the_oldest_runtimes_in_use():
    rule = "rules: [{models: m, targets: [onnx], runtimes: {onnxruntime: 1.20, ios: '16'}}]"
    assert parse_configuration(rule, "f", FORMATS).rules[0].runtimes == {"onnxruntime": "1.20", "ios": "16"}
    for bad, said in (("{onnxrt: 1}", "unknown key 'onnxrt'"), ("{ios: new}", "must be a version, as 1.16, not 'new'")):
        with pytest.raises(ConfigurationError, match=said):
            parse_configuration(rule.replace("{onnxruntime: 1.20, ios: '16'}", bad), "f", FORMATS)


def test_the_page_has_every_row_of_every_table():
    page = Path("docs/compatibility.md").read_text()
    for name, table in tables().items():
        for value, version in table["oldest"].items():
            assert f"| {value} | {version} |" in page, (name, value)
        for source in table["sources"]:
            assert source in page, (name, source)
