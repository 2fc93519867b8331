"""Which file of a folder is the model, and what it holds, told without importing or running anything of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile

import cloudpickle
import pytest
import torch
from torch import nn

from registry_export.discovery import discover_formats
from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export_plugins._torch.archives import Content, content_of
from registry_export_plugins._torch.contents import held
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins._torch.modules import to_array
from registry_export_plugins._torch.pickles import outline
from tests import models
from tests.support.torch_models import Classifier

FORMATS = discover_formats()


def training_checkpoint(key="model_state_dict"):
    net = Classifier()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return {"epoch": 3, key: net.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "loss": 0.5}


def locally_defined():
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

    return Local()


CONTENTS = {
    "module": (Classifier, Content.MODULE),
    "wrapped": (lambda: nn.DataParallel(Classifier()), Content.MODULE),
    "local_class": (locally_defined, Content.MODULE),
    "module_in_checkpoint": (lambda: {"epoch": 1, "model": Classifier()}, Content.MODULE),
    "state_dict": (lambda: Classifier().state_dict(), Content.STATE_DICT),
    "plain_dict": (lambda: dict(Classifier().state_dict()), Content.STATE_DICT),
    "parameters": (lambda: dict(Classifier().named_parameters()), Content.STATE_DICT),
    "checkpoint": (training_checkpoint, Content.CHECKPOINT),
    "checkpoint_state_dict": (lambda: training_checkpoint("state_dict"), Content.CHECKPOINT),
    "checkpoint_model": (lambda: training_checkpoint("model"), Content.CHECKPOINT),
    "optimizer": (lambda: training_checkpoint()["optimizer_state_dict"], Content.OTHER),
    "tensor": (lambda: torch.ones(3), Content.OTHER),
    "list": (lambda: [torch.ones(3)], Content.OTHER),
    "quantized": (
        lambda: torch.ao.quantization.quantize_dynamic(Classifier(), {nn.Linear}, torch.qint8).state_dict(),
        Content.STATE_DICT,
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", CONTENTS)
def test_what_a_file_holds_is_read_from_its_opcodes(case, zipped, tmp_path):
    make, content = CONTENTS[case]
    path = tmp_path / "file.pt"
    torch.save(make(), path, pickle_module=cloudpickle, _use_new_zipfile_serialization=zipped)
    assert content_of(path).content is content


def test_files_that_are_not_pickled_are_told_apart(tmp_path):
    torch.jit.script(models.PythonIf()).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(Classifier().eval(), (torch.ones(2, 4),)), tmp_path / "program.pt2")
    (tmp_path / "text.bin").write_bytes(b"\x80\x02 no pickle at all")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"a": 1}))
    with tarfile.open(tmp_path / "tar.pt", "w") as archive:
        archive.add(tmp_path / "text.bin", "pickle")
    found = {path.name: content_of(path).content for path in tmp_path.iterdir()}
    assert found.pop("script.pt") is Content.TORCHSCRIPT
    assert found.pop("program.pt2") is Content.PROGRAM
    assert set(found.values()) == {Content.OTHER}


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_recognising_a_file_runs_none_of_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Classifier().state_dict(), "extra": Bomb()}, "model.pt")
    assert content_of(tmp_path / "model.pt").content is Content.CHECKPOINT
    assert "posix.system" in content_of(tmp_path / "model.pt").names
    for format_ in FORMATS.values():
        format_.locate(tmp_path, {})
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_an_outline_follows_every_protocol(protocol, tmp_path):
    value = {"a": [1, (2.5, None)], "b": {"c": {3, 4}, "d": frozenset([5])}, "e": b"x", "f": range(3), "g": [True] * 70}
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    with path.open("rb") as stream:
        found = outline(stream)
    assert found.value["a"] == [1, (2.5, None)]
    assert list(found.value) == list(value)
    assert any(name.endswith((".range", ".xrange")) for name in found.names)


@pytest.mark.parametrize("cut", [1, 5, 40, 90])
def test_a_damaged_pickle_is_no_crash(cut, tmp_path):
    whole = pickle.dumps({"layer": Classifier().state_dict()}, 2)
    path = tmp_path / "cut.bin"
    path.write_bytes(whole[:cut] + whole[cut + 7 :])
    with path.open("rb") as stream, contextlib.suppress(ValueError):
        outline(stream)
    assert content_of(path).content is Content.OTHER


def names_of(folder, flavors=None):
    return [name for name, format_ in FORMATS.items() if format_.locate(folder, flavors or {}) is not None]


@pytest.mark.parametrize(
    ("file", "make", "expected"),
    [
        ("net.pt", Classifier, "pytorch"),
        ("net.bin", lambda: Classifier().state_dict(), "state_dict"),
        ("last.ckpt", training_checkpoint, "state_dict"),
        ("checkpoint.tar", training_checkpoint, "state_dict"),
        ("model_best.pth.tar", lambda: training_checkpoint("state_dict"), "state_dict"),
        ("weights.pkl", lambda: Classifier().state_dict(), "state_dict"),
        ("epoch=1.ckpt", lambda: training_checkpoint("state_dict") | {"pytorch-lightning_version": "2"}, "lightning"),
    ],
)
def test_exactly_one_format_claims_a_plain_file(file, make, expected, tmp_path):
    torch.save(make(), tmp_path / file)
    assert names_of(tmp_path) == [expected]
    assert FORMATS[expected].locate(tmp_path, {}) == tmp_path / file


def test_plain_scripts_and_programs_are_claimed_once(tmp_path):
    for name, format_ in (("a", "torchscript"), ("b", "exported_program")):
        (tmp_path / name).mkdir()
        if format_ == "torchscript":
            torch.jit.script(models.PythonIf()).save(tmp_path / name / "net.pth")
        else:
            torch.export.save(torch.export.export(Classifier().eval(), (torch.ones(2, 4),)), tmp_path / name / "n.pt2")
        assert names_of(tmp_path / name) == [format_]


def test_the_model_is_found_among_what_a_trainer_leaves(tmp_path):
    torch.save(Classifier().state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(training_checkpoint()["optimizer_state_dict"], tmp_path / "optimizer.pt")
    torch.save({"learning_rate": 1}, tmp_path / "training_args.bin")
    assert checkpoint_file(tmp_path, {}, Content.STATE_DICT) == tmp_path / "pytorch_model.bin"


def test_a_file_one_folder_below_is_found_but_no_export_of_ours(tmp_path):
    (tmp_path / "exports" / "torchscript").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    torch.save(Classifier(), tmp_path / "exports" / "model.pt")
    assert names_of(tmp_path) == []
    torch.save(Classifier().state_dict(), tmp_path / "checkpoints" / "step.pt")
    assert names_of(tmp_path) == ["state_dict"]


def test_among_several_the_one_named_as_the_model_is_taken_and_else_they_are_named(tmp_path):
    for name in ("generator.pt", "discriminator.pt"):
        torch.save(Classifier().state_dict(), tmp_path / name)
    with pytest.raises(SourceError, match=r"discriminator\.pt, generator\.pt.*model\.pt"):
        FORMATS["state_dict"].locate(tmp_path, {})
    torch.save(Classifier().state_dict(), tmp_path / "model.pt")
    assert FORMATS["state_dict"].locate(tmp_path, {}) == tmp_path / "model.pt"


def test_a_state_dict_in_mlflows_place_of_a_module_is_a_state_dict(tmp_path):
    (tmp_path / "data").mkdir()
    torch.save(Classifier().state_dict(), tmp_path / "data" / "model.pth")
    assert names_of(tmp_path, {"pytorch": {"model_data": "data"}}) == ["state_dict"]


def test_a_damaged_module_in_mlflows_place_is_claimed_so_that_loading_it_says_so(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.pth").write_bytes(b"torn")
    assert names_of(tmp_path, {"pytorch": {"model_data": "data"}}) == ["pytorch"]


def test_the_best_model_goes_before_the_last_checkpoint(tmp_path):
    for name in ("checkpoint.pth.tar", "model_best.pth.tar"):
        torch.save(training_checkpoint(), tmp_path / name)
    assert checkpoint_file(tmp_path, {}, Content.CHECKPOINT) == tmp_path / "model_best.pth.tar"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: path.write_text("no model"), r"net\.pt cannot be read: it begins with b'no m'"),
        (lambda path: path.write_bytes(b""), r"net\.pt is empty\."),
        (lambda path: torch.save(torch.ones(3), path), r"net\.pt holds a value of class Tensor.*state_dict\(\)"),
        (
            lambda path: zipped(path),
            r"net\.pt cannot be read: it is a zip file, and damaged or none that torch\.save wrote",
        ),
        (lambda path: cut(path), r"net\.pt cannot be read: .*the end is not there\."),
    ],
    ids=["text", "empty", "tensor", "zip", "cut"],
)
def test_a_lone_file_that_holds_no_model_is_claimed_so_that_loading_it_says_why(content, reason, tmp_path):
    (tmp_path / "notes.md").write_text("what it is")
    content(tmp_path / "net.pt")
    assert names_of(tmp_path) == ["pytorch"]
    with pytest.raises(SourceError, match=reason):
        FORMATS["pytorch"].load(tmp_path / "net.pt", Interface(inputs=()))


def test_a_file_that_holds_no_model_does_not_hide_another_formats(tmp_path):
    (tmp_path / "junk.pt").write_text("no model")
    (tmp_path / "net.onnx").write_bytes(b"x")
    assert names_of(tmp_path) == ["onnx"]


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")


def cut(path):
    torch.save(Classifier(), path)
    path.write_bytes(path.read_bytes()[:700])


def test_recognising_imports_no_framework(tmp_path):
    torch.save(Classifier(), tmp_path / "model.pt")
    program = (
        "import sys, pathlib\nfrom registry_export.discovery import discover_formats\n"
        "found = [n for n, f in discover_formats().items() if f.locate(pathlib.Path(sys.argv[1]), {})]\n"
        "print(found, sorted({'torch', 'tensorflow', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['pytorch'] []"


def test_an_adapter_without_its_model_is_refused_with_the_way_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match=r"PEFT adapter.*merge_and_unload"):
        FORMATS["safetensors"].locate(tmp_path, {})


def test_the_imaginary_part_of_half_complex_numbers_is_read_too_and_packed_bits_are_listed_unread():
    half = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex32)
    packed = torch.zeros(4, dtype=torch.uint8).view(torch.int4)
    wave, bits = held({"wave": half, "bits": packed})
    assert (wave.dtype, wave.size_bytes, wave.value().tolist()) == ("complex32", 8, [1 + 2j, 3 - 4j])
    assert (bits.dtype, bits.value) == ("int4", None)
    assert to_array(half).tolist() == [1 + 2j, 3 - 4j]
