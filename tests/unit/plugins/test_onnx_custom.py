"""Operators that ONNX does not have: refused by name and place, or translated and run with their library."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from registry_export.errors import ConversionError, SourceError, UnsupportedModelError, VerificationError
from registry_export.format import EXPORTED_PROGRAM, ONNX_MODEL, TORCH_MODULE, ConversionRequest
from registry_export_plugins._torch.export import export_program
from registry_export_plugins.onnx import Onnx
from tests import models
from tests.unit.plugins import inverting
from tests.unit.plugins.torch_support import Source, assert_same_numbers, convert, make_source, spec

TABLE = "tests.unit.plugins.inverting:TABLE"
LIBRARY = "onnxruntime_extensions:get_library_path"


@pytest.fixture
def source(tmp_path) -> Source:
    return make_source(models.seeded(inverting.Net()).eval(), (spec("x", "float32", "batch", 3),), tmp_path)


def _export(source: Source, folder: Path, **options: Any) -> Path:
    return convert(Onnx(), TORCH_MODULE, source.load(), source, folder, **options)[0]


def test_a_custom_operator_is_refused_by_name_with_its_module_and_the_remedy(source, tmp_path):
    with pytest.raises(UnsupportedModelError) as caught:
        _export(source, tmp_path / "made")
    assert "no ONNX form of inverting.inverse, called in blocks.1 (Inversion)" in str(caught.value)
    assert "custom_translation_table" in str(caught.value)


def test_an_operator_of_pytorch_is_refused_with_its_module(tmp_path):
    source = make_source(models.Inverse(), (spec("x", "float32", "batch", 3, 3),), tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"aten\.linalg_inv\w*, called in the model itself \(Inverse\)"):
        _export(source, tmp_path / "made")


@pytest.mark.parametrize("opset", [18, 20])
def test_a_translated_operator_runs_with_its_library_wherever_the_folder_goes(opset, source, tmp_path):
    path = _export(
        source, tmp_path / "made", custom_translation_table=TABLE, custom_ops_library=LIBRARY, opset_version=opset
    )
    moved = tmp_path / "moved"
    shutil.copytree(path.parent, moved)
    shutil.rmtree(tmp_path / "made")
    assert_same_numbers(Onnx(), moved / "model.onnx", source)
    described = Onnx().describe(moved / "model.onnx")
    assert described.opset_version == opset
    assert described.opset_imports["ai.onnx.contrib"] == 1
    assert len(list(moved.iterdir())) == 2, "the model and its library"


def test_a_program_is_translated_too_and_in_half_precision(source, tmp_path):
    request = ConversionRequest({}, source.interface, source.runs[0][0], tmp_path)
    program = export_program(source.load(), request).program
    options = {"custom_translation_table": TABLE, "custom_ops_library": LIBRARY, "precision": "fp16"}
    path, _ = convert(Onnx(), EXPORTED_PROGRAM, program, source, tmp_path / "made", **options)
    assert_same_numbers(Onnx(), path, source, atol=1e-2)
    assert Onnx().describe(path).precision == "fp16"


def test_a_source_with_a_library_keeps_it(source, tmp_path):
    path = _export(source, tmp_path / "made", custom_translation_table=TABLE, custom_ops_library=LIBRARY)
    for options in ({}, {"opset_version": 19}):
        again, _ = convert(Onnx(), ONNX_MODEL, path, source, tmp_path / f"again{len(options)}", **options)
        assert_same_numbers(Onnx(), again, source)


def test_without_its_library_a_custom_operator_is_named_with_the_remedy(source, tmp_path):
    with pytest.raises(ConversionError, match=r"Inverse.*not a registered function/op"):
        _export(source, tmp_path / "made", custom_translation_table=TABLE)


def test_a_library_that_is_missing_is_named(source, tmp_path):
    path = _export(source, tmp_path / "made", custom_translation_table=TABLE, custom_ops_library=LIBRARY)
    next(file for file in path.parent.iterdir() if file != path).unlink()
    with pytest.raises(SourceError, match="which is not beside it"), Onnx().open(path, source.interface):
        pass


def test_a_library_outside_of_the_folder_is_not_loaded(source, tmp_path):
    path = _export(source, tmp_path / "made", custom_translation_table=TABLE, custom_ops_library=LIBRARY)
    model = onnx.load(str(path))
    model.metadata_props[0].value = "../" + model.metadata_props[0].value
    onnx.save(model, str(path))
    with pytest.raises((SourceError, VerificationError)), Onnx().open(path, source.interface):
        pass


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("custom_translation_table", "tests.unit.plugins.inverting:NOT_A_TABLE", "not a mapping"),
        ("custom_translation_table", "no.such.module:TABLE", "cannot be imported"),
        ("custom_translation_table", "tests.unit.plugins.inverting:ABSENT", "cannot be imported"),
        ("custom_ops_library", "absent.so", "is not there"),
    ],
)
def test_options_that_lead_nowhere_are_refused_with_the_remedy(option, value, said, source, tmp_path):
    with pytest.raises(ConversionError, match=said):
        _export(source, tmp_path / "made", **{option: value})


def test_a_table_is_refused_where_pytorchs_exporter_is_not_used():
    for conversion in Onnx.conversions:
        refusal = conversion.accepts({"custom_translation_table": TABLE})
        assert bool(refusal) == (conversion.kind not in (TORCH_MODULE, EXPORTED_PROGRAM))


def test_an_export_depends_on_the_code_that_its_options_name():
    assert {option.name for option in Onnx.options if option.code} == {
        "custom_translation_table",
        "custom_ops_library",
    }
