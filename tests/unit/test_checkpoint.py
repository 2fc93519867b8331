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
