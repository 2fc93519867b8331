"""Files from elsewhere are read within bounds: what a few bytes of them stand for is counted before it is made."""

from __future__ import annotations

import time

import pytest

from registry_export.parsing import json_of, read_bounded, yaml_of

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases stand for more"),
        (MERGED, "aliases stand for more"),
        ("a: &a [*a]", "aliases stand for more"),
        ("[" * 20_000, "nested too deeply"),
        ("a: !!timestamp x", "."),
        ("a: 2001-99-99", "."),
        ("a: !!bool x", "."),
        ("a: !!python/object:os.system x", "."),
        ("\x00", "."),
        ("a: " + "9" * 5000, "."),
        ("a: 1" + ":0" * 1_000_000, "number is longer"),
        ("a: 1" + ":0" * 1_000_000 + ".0", "number is longer"),
    ],
)
def test_a_yaml_document_that_is_a_bomb_or_none_is_a_value_error_at_once(text, said):
    began = time.process_time()
    with pytest.raises(ValueError, match=said):
        yaml_of(text)
    assert time.process_time() - began < 5


def test_aliases_are_taken_as_they_are_meant():
    assert yaml_of("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    assert yaml_of("") is None


@pytest.mark.parametrize("text", ["[" * 100_000, b"\xff", "9" * 5000, "{"])
def test_json_that_is_none_or_nested_without_end_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        json_of(text)


def test_a_file_is_read_up_to_its_bound_and_no_further(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(ValueError, match="text is larger"):
        read_bounded(path, 4)
