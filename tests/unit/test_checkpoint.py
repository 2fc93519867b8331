"""What a source is loaded with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from registry_export.checkpoint import read_checkpoint
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import UnsupportedSourceError
from registry_export.model_setup import ModelSetup
from tests.unit.stub_formats import StubFormat


class Located(StubFormat):
    def locate(self, folder: Path, flavors):
        return folder / "data" if "stub" in flavors else None


def _model(folder: Path, example: dict[str, list[list[float]]] | None, flavor: str = "stub") -> Path:
    mlmodel: dict[str, object] = {"flavors": {flavor: {"data": "data"}}}
    if example is not None:
        info = {"artifact_path": "input_example.json", "type": "ndarray", "format": "tf-serving"}
        mlmodel["saved_input_example_info"] = info
        (folder / "input_example.json").write_text(json.dumps({"inputs": example}))
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    return folder


def test_without_a_signature_the_example_tells_which_arguments_are_given(tmp_path):
    example = {"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}
    origin = read_checkpoint(_model(tmp_path, example), {"stub": Located()}).origin
    dtype = np.asarray([[1, 2]]).dtype.name
    names = ("input_ids", "attention_mask")
    assert origin.interface == Interface(tuple(TensorSpec(name, dtype, None) for name in names))


def test_without_signature_and_example_nothing_is_known(tmp_path):
    assert read_checkpoint(_model(tmp_path, None), {"stub": Located()}).origin.interface == Interface(inputs=())


def test_an_input_example_that_cannot_be_used_is_spoken_of_in_the_report(tmp_path):
    model = _model(tmp_path, {"text": "no number"})
    assert "is not used" in read_checkpoint(model, {"stub": Located()}).record.notes[0]


def test_a_model_of_no_format_names_its_flavors(tmp_path):
    with pytest.raises(UnsupportedSourceError, match="sklearn"):
        read_checkpoint(_model(tmp_path, None, "sklearn"), {"stub": Located()})


class ByName(StubFormat):
    def locate(self, folder: Path, flavors):
        path = folder / f"net.{self.name}"
        return path if not flavors and path.is_file() else None


def test_plain_files_that_no_format_recognises_are_named_with_their_sizes(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("x" * 12)
    with pytest.raises(UnsupportedSourceError, match=r"files: 0\.txt \(12 B\), .*4\.txt \(12 B\) and 2 more\."):
        read_checkpoint(tmp_path, {"stub": Located()})


def test_a_version_without_files_says_so(tmp_path):
    with pytest.raises(UnsupportedSourceError, match="files: there are none"):
        read_checkpoint(tmp_path, {"stub": Located()})


def test_of_two_formats_in_one_folder_the_report_says_which_was_taken(tmp_path):
    formats = {}
    for name in ("first", "second"):
        formats[name] = ByName()
        formats[name].name = name
        (tmp_path / f"net.{name}").write_text("")
    found = read_checkpoint(tmp_path, formats)
    assert found.path.name == "net.first"
    assert found.record.notes == ("The checkpoint is net.first; not looked at beside it: net.second (second).",)


def test_code_that_an_option_names_is_part_of_what_an_export_depends_on(tmp_path):
    (tmp_path / "m").mkdir()
    library, table = tmp_path / "operators.so", tmp_path / "translations.py"
    names = [str(library), "translations:TABLE"]
    setup = ModelSetup(search=(str(tmp_path),))
    checkpoint = read_checkpoint(_model(tmp_path / "m", None), {"stub": Located()}, setup)
    assert not checkpoint.code_digest()
    digests = [checkpoint.code_digest(names)]
    for path, content in ((library, b"1"), (library, b"2"), (table, b"TABLE = {}"), (table, b"TABLE = {1: 2}")):
        path.write_bytes(content)
        digests.append(checkpoint.code_digest(names))
    assert len(set(digests)) == len(digests)
