"""What a source is loaded with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from registry_export.checkpoint import read_checkpoint
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import MissingPackageError, SourceError, UnsupportedSourceError
from registry_export.model_setup import NO_SETUP, ModelSetup
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


class Files(StubFormat):
    """Takes the files of plain folders that have its suffix; of several none."""

    def __init__(self, name: str, *setup: str) -> None:
        self.name, self.setup = name, setup

    def locate(self, folder: Path, flavors):
        found = sorted(folder.glob(f"*.{self.name}"))
        if len(found) > 1:
            raise SourceError(f"There are {len(found)} files of {self.name}.")
        return found[0] if found else None


class Whole(StubFormat):
    name = "whole"

    def locate(self, folder: Path, flavors):
        return folder if (folder / "whole.json").is_file() else None


def _taken(folder: Path, names: str, setup: ModelSetup = NO_SETUP) -> str:
    for name in names.split():
        (folder / name).write_text("")
    formats = {"a": Files("a"), "b": Files("b"), "weights": Files("weights", "model_factory"), "whole": Whole()}
    return read_checkpoint(folder, formats, setup).path.name


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ("tokenizer.a model.b", "model.b"),
        ("first.b second.b model.a", "model.a"),
        ("first.a second.a model.b", "model.b"),
        ("net.a net.b", "net.a"),
        ("net.weights net.b", "net.b"),
    ],
)
def test_of_plain_files_the_one_named_model_is_taken_whatever_its_format(tmp_path, names, taken):
    assert _taken(tmp_path, names) == taken


def test_a_folder_that_is_a_model_as_a_whole_goes_before_a_file_in_it(tmp_path):
    assert _taken(tmp_path, "net.a net.weights whole.json") == tmp_path.name


def test_whoever_names_a_factory_means_the_weights(tmp_path):
    assert _taken(tmp_path, "net.a net.weights", ModelSetup(model_factory="nets:build")) == "net.weights"


def test_of_several_files_of_one_format_none_is_guessed_because_another_format_has_one(tmp_path):
    with pytest.raises(SourceError, match=r"There are 2 files of b\."):
        _taken(tmp_path, "first.b second.b tokenizer.a")


def test_the_report_says_what_could_not_be_chosen_among_beside_the_file_named_model(tmp_path):
    for name in ("first.b", "second.b", "model.a"):
        (tmp_path / name).write_text("")
    notes = read_checkpoint(tmp_path, {"a": Files("a"), "b": Files("b")}).record.notes
    assert notes == ("The checkpoint is model.a, which its name says. There are 2 files of b.",)


def test_a_checkpoint_whose_packages_are_absent_says_what_installs_them(tmp_path):
    lacking = Located()
    lacking.requirements = ("pathlib", "no_such_package")
    with pytest.raises(MissingPackageError, match=r"stub checkpoint needs .*: no_such_package\. Run `pip install 'reg"):
        read_checkpoint(_model(tmp_path, None), {"stub": lacking})


class Strict(StubFormat):
    def locate(self, folder: Path, flavors):
        raise UnsupportedSourceError("There is no network in it.")


def test_a_format_that_refuses_a_model_leaves_it_to_the_others(tmp_path):
    model = _model(tmp_path, None)
    assert read_checkpoint(model, {"a": Strict(), "stub": Located()}).format.name == "stub"
    with pytest.raises(UnsupportedSourceError, match="no network"):
        read_checkpoint(model, {"a": Strict(), "b": ByName()})


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


def test_what_a_factory_imports_from_beside_it_is_part_of_what_an_export_depends_on(tmp_path):
    (tmp_path / "m").mkdir()
    setup = ModelSetup(model_factory="nets:build", search=(str(tmp_path),))
    checkpoint = read_checkpoint(_model(tmp_path / "m", None), {"stub": Located()}, setup)
    (tmp_path / "nets.py").write_text("def build():\n    from layers import Layer\n    return Layer()\n")
    (tmp_path / "layers.py").write_text("import blocks.conv\n")
    (tmp_path / "blocks").mkdir()
    digests = []
    for path in (tmp_path / "layers.py", tmp_path / "blocks" / "conv.py"):
        for content in ("import blocks.conv\n", "import blocks.conv\nWIDTH = 2\n"):
            path.write_text(content)
            digests.append(checkpoint.code_digest())
    (tmp_path / "unrelated.py").write_text("")
    assert len(set(digests)) == len(digests)
    assert checkpoint.code_digest() == digests[-1]


def test_code_is_looked_for_in_the_order_in_which_the_child_imports_it(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "installed").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    setup = ModelSetup(model_factory="nets_of_a_test:build", search=(str(tmp_path),))
    checkpoint = read_checkpoint(_model(tmp_path / "m", None), {"stub": Located()}, setup)
    (tmp_path / "nets_of_a_test.py").write_text("")
    (tmp_path / "installed" / "nets_of_a_test.py").write_text("")
    before = checkpoint.code_digest()
    (tmp_path / "installed" / "nets_of_a_test.py").write_text("def build(): ...")
    assert checkpoint.code_digest() != before
