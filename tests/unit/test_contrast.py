"""What two models' contents differ in."""

from __future__ import annotations

import numpy as np

from registry_export.contrast import contrast
from registry_export.entities import Contents, Interface, TensorContents, TensorSpec
from registry_export.summaries import difference


def tensor(name, digest="d", shape=(2,), dtype="float32"):
    return TensorContents(name, shape, dtype, 8, 0.0, 1.0, 0.5, 0.5, sha256=digest)


def contents(*tensors, operators=None, **facts):
    facts = {"format": "onnx", "size_bytes": 10, "parameters": 0, **facts}
    return Contents(**facts, tensors=tensors, tensor_count=len(tensors), operators=operators)


def between(one, other, differences=None):
    return contrast(("a", one), ("b", other), differences or {})


def test_equal_contents_are_the_same_whatever_the_files_sizes():
    found = between(contents(tensor("w"), size_bytes=1), contents(tensor("w"), size_bytes=2))
    assert found.same
    assert found.equal_tensors == 1
    assert found.facts == {"size in bytes": ("1", "2")}


def test_tensors_are_added_removed_changed_and_renamed():
    one = contents(tensor("w", "1"), tensor("old", "2"), tensor("gone", "3"), tensor("grown", "4"))
    other = contents(tensor("w", "9"), tensor("new", "2"), tensor("more", "5"), tensor("grown", "4", shape=(3,)))
    found = between(one, other, {"w": 0.25})
    told = [(t.name, t.change, t.max_abs_diff, t.other_name) for t in found.tensors]
    assert told == [
        ("w", "changed", 0.25, ""),
        ("old", "renamed", 0.0, "new"),
        ("gone", "removed", None, ""),
        ("grown", "changed", None, ""),
        ("more", "added", None, ""),
    ]
    assert not found.same


def test_negative_zero_is_no_change():
    assert between(contents(tensor("w", "1")), contents(tensor("w", "2")), {"w": 0.0}).same


def test_integers_that_float64_takes_for_equal_are_a_change():
    one, other = (contents(tensor("seed", digest, dtype="int64")) for digest in "12")
    assert not between(one, other, {"seed": 0.0}).same


def test_complex_numbers_differ_in_their_imaginary_parts_too():
    assert difference(np.array([1 + 1j], np.complex64), np.array([1 + 4j], np.complex64)) == 3.0


def test_operators_and_facts_are_told_side_by_side():
    one = contents(operators={"Conv": 2, "Relu": 1}, opset_version=17, metadata={"producer": "x"})
    spec = TensorSpec("x", "float32", ("batch", 3))
    other = contents(operators={"Conv": 3, "Relu": 1}, opset_version=20, interface=Interface((spec,)))
    found = between(one, other)
    assert found.operators == {"Conv": (2, 3)}
    assert found.facts["opset"] == ("17", "20")
    assert found.facts["producer"] == ("x", "")
    assert found.facts["inputs"] == ("", "x float32 (batch, 3)")


def test_what_one_does_not_tell_is_said_and_no_difference():
    blind = Contents("tensorrt", 10)
    found = between(contents(tensor("w"), operators={"Conv": 1}, format="tensorrt", parameters=None), blind)
    assert not found.operators
    assert not found.tensors
    assert any("b does not tell them" in sentence for sentence in found.unsaid)
