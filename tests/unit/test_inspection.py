"""Statistics, sums and bounds of what a file holds; the formats' own readers are in the contract suite."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry_export.contents import split
from registry_export.entities import Description, Interface, Outline
from registry_export.errors import ConfigurationError, SourceError
from registry_export.format import Held, Inside
from registry_export.inference import Origin
from registry_export.inspection import InspectRequest, inspect, outline
from registry_export.report import contents_page
from registry_export.summaries import difference, statistics
from registry_export.tensors import read_tensors


class Stranger:
    """A format that holds what a test says."""

    name, held, broken = "stranger", Inside(), False

    def inspect(self, path):
        if self.broken:
            raise RuntimeError("the file bites")
        return self.held

    def describe(self, path):
        return Description(Interface(()), format_version="7", details={"producer": "nobody"})


@pytest.fixture
def look(tmp_path, monkeypatch):
    def inspected(held, keep="", beside="", broken=False):
        format_ = Stranger()
        format_.held, format_.broken = held, broken
        monkeypatch.setattr("registry_export.inspection.discover_formats", lambda: {"stranger": format_})
        file = tmp_path / "model.bin"
        file.write_bytes(b"12345")
        monkeypatch.setattr(sys, "path", list(sys.path))
        return inspect(InspectRequest(Origin("stranger", str(file), Interface(())), str(keep), str(beside)))

    return inspected


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_statistics_are_those_of_numpy_in_double_precision(array):
    found = statistics(array)
    wide = array.astype(np.float64)
    assert (found.minimum, found.maximum, found.nonfinite) == (wide.min(), wide.max(), 0)
    assert found.mean == pytest.approx(wide.mean(), abs=1e-9, rel=1e-12)
    assert found.std == pytest.approx(wide.std(), abs=1e-6, rel=1e-9)


def test_pieces_are_put_together_without_losing_a_small_deviation_on_a_large_mean(monkeypatch):
    monkeypatch.setattr("registry_export.summaries._AT_ONCE", 7)
    array = 1e8 + np.random.default_rng(0).standard_normal(1000)
    found = statistics(array)
    assert found.mean == pytest.approx(array.mean(), rel=1e-15)
    assert found.std == pytest.approx(array.std(), rel=1e-7)


def test_what_is_not_finite_is_counted_and_left_out():
    found = statistics(np.array([1, np.nan, 3, np.inf, -np.inf], np.float32))
    assert (found.minimum, found.maximum, found.mean, found.std, found.nonfinite) == (1, 3, 2, 1, 3)
    assert statistics(np.array([np.nan])).minimum is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 2], [1, 2.5], 0.5),
        ([np.nan, 1], [np.nan, 3], 2),
        ([np.inf, 1], [np.inf, 1], 0),
        ([np.nan, 1], [1, 1], None),
        ([np.inf], [-np.inf], None),
    ],
)
def test_a_difference_is_the_largest_and_unknown_where_only_one_is_finite(one, other, expected):
    assert difference(np.array(one), np.array(other)) == expected


def test_parameters_add_up_by_module_and_shared_memory_counts_once(look):
    weight = np.ones((2, 3), np.float32)
    held = [
        Held("a.b.weight", weight),
        Held("a.b.bias", np.zeros(2, np.float16)),
        Held("a.tied", weight, same_as="a.b.weight"),
        Held("steps", np.array(5)),
    ]
    found = look(Inside(held)).contents
    assert (found.tensor_count, found.parameters, found.tensor_bytes) == (4, 8, 24 + 4 + 8)
    assert [(m.path, m.parameters, m.depth) for m in found.modules] == [("", 8, 0), ("a", 8, 1), ("a.b", 8, 2)]
    assert found.tensors[2].same_as == "a.b.weight"
    assert found.format_version == "7"
    assert found.size_bytes == 5


def test_a_file_full_of_tensors_and_words_is_cut_to_what_an_answer_can_carry(look, monkeypatch):
    monkeypatch.setattr("registry_export.inspection._MOST_TENSORS", 3)
    held = (Held("n" * 10_000 + str(i), np.zeros(1, np.float32)) for i in range(10))
    words = {f"key {i}": "x" * 100_000 for i in range(5000)}
    found = look(Inside(held, {f"op {i}": i for i in range(5000)}, words)).contents
    assert (len(found.tensors), found.tensor_count, found.parameters) == (3, 10, 10)
    assert any("the first 3 are listed" in sentence for sentence in found.unsaid)
    assert len(found.operators) == len(found.metadata) == 1000
    assert max(map(len, found.metadata.values())) == 2000
    assert len(found.tensors[0].name) == 300


def test_what_cannot_be_read_has_a_shape_and_no_numbers(look):
    found = look(Inside([Held("packed", None, (4, 4), "int4", 8), Held("words", np.array(["a"]))])).contents
    assert [(t.dtype, t.size_bytes, t.minimum, t.sha256) for t in found.tensors[:1]] == [("int4", 8, None, None)]
    assert found.tensors[1].minimum is None


def test_a_fault_of_a_reader_is_a_sentence(look):
    with pytest.raises(SourceError, match="cannot be looked into: RuntimeError: the file bites"):
        look(Inside(), broken=True)


def test_the_elements_are_kept_for_the_one_that_is_compared(look, tmp_path):
    array = np.array([1.0, 2.0], np.float32)
    look(Inside([Held("w", array), Held("v", array)]), keep=tmp_path / "kept")
    assert list(read_tensors(tmp_path / "kept")) == ["w", "v"]
    found = look(Inside([Held("w", array + 1), Held("v", np.ones(3))]), beside=tmp_path / "kept")
    assert found.differences == {"w": 1.0}


def test_a_page_escapes_what_a_file_says(look):
    found = look(Inside([Held("<script>", np.ones(2, np.float32))], {"<b>": 1}, {"author": "<i>me</i>"})).contents
    page = contents_page("<name>", found)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;i&gt;me&lt;/i&gt;" in page


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("models:/digits/3#onnx", "", ("models:/digits/3", "onnx")),
        ("models:/digits/3", "onnx", ("models:/digits/3", "onnx")),
        ("models:/a#b/3", "", ("models:/a#b/3", "")),
        ("models:/digits@champion#onnx:opset_version=17", "", ("models:/digits@champion", "onnx:opset_version=17")),
        ("folder#1/model.onnx", "", ("folder#1/model.onnx", "")),
    ],
)
def test_a_target_may_stand_behind_the_uri(text, target, expected):
    assert split(text, target) == expected


def test_two_targets_for_one_model_are_refused():
    with pytest.raises(ConfigurationError, match="name one of them"):
        split("models:/digits/3#onnx", "tflite")


def test_an_outline_needs_no_elements_and_leaves_large_files_alone(tmp_path, monkeypatch):
    def unreadable():
        raise AssertionError("nobody asked for the elements")

    format_ = Stranger()
    format_.held = Inside([Held("w", unreadable, (3, 4), "float32", 48), Held("n", np.zeros(2, np.int64))], {"Conv": 2})
    file = tmp_path / "model.bin"
    file.write_bytes(b"12345")
    assert outline(format_, file) == Outline(2, 12, {"float32": 48, "int64": 16}, {"Conv": 2})
    format_.broken = True
    assert outline(format_, file) is None
    format_.broken = False
    monkeypatch.setattr("registry_export.inspection._LARGEST_OUTLINED", 4)
    assert outline(format_, file) is None
