"""What the core makes of a converter's output, and how it watches over the input."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import msgspec
import pytest

from registry_export import conversion
from registry_export.conversion import ConvertRequest, fingerprint, merged
from registry_export.entities import Description, Interface, TensorSpec
from registry_export.format import Conversion, ConversionResult, Toolchain
from registry_export.inference import Origin
from tests.unit.stub_formats import StubFormat


def interface(**inputs):
    return Interface(tuple(TensorSpec(name, "float32", shape) for name, shape in inputs.items()))


WANTED = interface(x=("batch", 4), mask=("batch", 1))


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (interface(mask=(2, 1), x=("n", 4)), interface(x=("batch", 4), mask=(2, 1))),
        (interface(input_1=(2, 4), input_2=("n", 1)), interface(x=(2, 4), mask=("batch", 1))),
        (interface(x=(2, 4)), interface(x=(2, 4), mask=("batch", 1))),
    ],
    ids=["by name", "by position", "one was pruned"],
)
def test_what_a_file_says_of_an_input_stands_under_the_sources_name(described, expected):
    assert merged(described, WANTED) == expected


def test_a_file_that_renames_its_inputs_and_sorts_them_is_read_by_what_is_left_of_their_names():
    wanted = interface(**{"photo": ("batch", 16, 16, 3), "cat ids": ("batch", 4), "a/table:0": ("batch", 5)})
    sorted_by_a_signature = interface(a_table_0=("n", 5), cat_ids=("n", 4), photo=("n", 16, 16, 3))
    assert merged(sorted_by_a_signature, wanted) == wanted


def test_only_what_python_caches_may_change_in_a_converters_input(tmp_path: Path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "nets.py").write_text("")
    before = fingerprint(tmp_path)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "nets.cpython-311.pyc").write_text("compiled when it is imported")
    assert fingerprint(tmp_path) == before
    (code / "weights.bin").write_text("")
    assert fingerprint(tmp_path) != before


def test_a_large_source_is_gone_before_its_export_is_read_back(tmp_path, monkeypatch):
    class Model:
        def __init__(self):
            self.itself = self  # as modules and graphs are: only a search for garbage finds it

    alive = []

    def convert_(model, output, request):
        output.write_bytes(b"made")
        return ConversionResult(())

    class Stub(StubFormat):
        conversions = (Conversion("stub", convert_, Toolchain("stub")),)

        def load(self, path, interface):
            model = Model()
            alive.append(weakref.ref(model))
            return model

        def describe(self, path):
            assert alive[0]() is None, "the source is still in memory"
            return Description(WANTED)

    source = tmp_path / "source"
    source.write_bytes(b"weights")
    monkeypatch.setattr(conversion, "_LARGE", 3)
    monkeypatch.setattr(conversion, "discover_formats", lambda: {"stub": Stub()})
    monkeypatch.setattr(conversion, "read_tensors", lambda folder: {})
    request = ConvertRequest(
        Origin("stub", str(source), WANTED), "stub", 0, {}, WANTED, "samples", str(tmp_path / "out"), str(tmp_path)
    )
    gc.disable()
    try:
        assert conversion.convert(msgspec.to_builtins(request)).description == Description(WANTED)
    finally:
        gc.enable()
