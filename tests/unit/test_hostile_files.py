"""Files from the registry that the supervisor reads: bombs and names that lead elsewhere, refused in our words."""

from __future__ import annotations

import io
import json
import lzma
import pickle
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest
import yaml

from registry_export.checkpoint import read_checkpoint
from registry_export.discovery import discover_formats
from registry_export.errors import ArtifactError, ChildError, SamplesError, SourceError, VerificationError
from registry_export.isolation import Outcome
from registry_export.manifest import read_manifest
from registry_export.model_setup import code_files
from registry_export.reference import Reference
from registry_export.registry import read_model
from registry_export.registry.sample_files import read_arrays
from registry_export.report import from_json
from registry_export.tensors import read_tensors, write_tensors
from registry_export_plugins._coreml.package import Package
from registry_export_plugins._mxnet.files import read_parameters, read_symbol
from registry_export_plugins._tensorflow.files import checkpoint_index, is_keras_2_weights
from registry_export_plugins._torch import pickles
from registry_export_plugins._torch.archives import Content, content_of
from registry_export_plugins._torch.files import hugging_face_folder, shards_of
from registry_export_plugins._torch.pickles import outline

DEEP = b"[" * 100_000


@pytest.fixture(autouse=True)
def _quick():
    began = time.process_time()
    yield
    assert time.process_time() - began < 10


def mlmodel(folder, **document):
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "flavors: {a: {2001-01-01: 1, null: 2, b: 3}}",
        "x0: &x0 [1, 1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 60)),
        "flavors: {a: &a {b: *a}}",
        "a: " + "[" * 20_000,
    ],
)
def test_an_mlmodel_that_is_a_bomb_is_refused(tmp_path, text):
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(SourceError, match="MLmodel"):
        read_model(tmp_path)


def test_an_mlmodel_of_megabytes_is_not_even_parsed(tmp_path):
    (tmp_path / "MLmodel").write_bytes(b"# " + b"x" * 5_000_000)
    with pytest.raises(SourceError, match="larger than"):
        read_model(tmp_path)


def test_a_signature_with_an_endless_shape_or_nesting_is_refused(tmp_path):
    for inputs in ('[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [1e400]}}]', DEEP.decode()):
        with pytest.raises(SourceError, match="signature"):
            read_model(mlmodel(tmp_path, signature={"inputs": inputs}))


def test_names_that_are_no_names_of_files_are_no_files(tmp_path):
    long = "x" * 5000
    flavors = {"python_function": {"code": long}}
    files = read_model(mlmodel(tmp_path, flavors=flavors, saved_input_example_info={"artifact_path": long}))
    assert (files.code_paths, files.example) == ((), None)
    with pytest.raises(SourceError):
        read_checkpoint(mlmodel(tmp_path, flavors={"onnx": {"data": long}}), discover_formats())


def test_an_input_example_nested_without_end_is_left_with_a_note(tmp_path):
    (tmp_path / "input_example.json").write_bytes(DEEP)
    files = read_model(mlmodel(tmp_path, saved_input_example_info={"type": "ndarray"}))
    assert files.example is None
    assert "cannot be read" in files.notes[0]


@pytest.mark.parametrize("way", ["{outside}", "../outside.onnx"])
def test_no_flavor_leads_out_of_the_models_folder(tmp_path, way):
    """Children may read what is found: a path to the worker's secrets would open them."""
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(b"secret")
    folder = tmp_path / "model"
    folder.mkdir()
    mlmodel(folder, flavors={"onnx": {"data": way.format(outside=outside)}})
    with pytest.raises(SourceError, match="out of the model's folder"):
        read_checkpoint(folder, discover_formats())


def test_a_link_in_a_models_folder_does_not_lead_out_of_it_either(tmp_path):
    (tmp_path / "outside.onnx").write_bytes(b"secret")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(SourceError, match="out of the model's folder"):
        read_checkpoint(folder, discover_formats())


@pytest.mark.parametrize("pickled", ["/dev/zero", "../../../../../../dev/zero"])
def test_a_pickle_that_is_a_device_is_not_read(tmp_path, pickled):
    flavor = {"loader_module": "mlflow.pyfunc.model", "python_model": pickled}
    with pytest.raises(SourceError, match="neither a PyTorch nor a Keras model"):
        read_checkpoint(mlmodel(tmp_path, flavors={"python_function": flavor}), discover_formats())


def test_flavors_of_another_shape_are_refused_in_our_words(tmp_path):
    flavor = {"loader_module": "mlflow.pyfunc.model", "artifacts": ["a", 1]}
    with pytest.raises(SourceError, match="cannot understand"):
        read_checkpoint(mlmodel(tmp_path, flavors={"python_function": flavor}), discover_formats())


def test_a_name_made_of_nested_values_is_never_written_out():
    """Sixty tuples of two, each holding the one before twice, have a text of 2**60 letters."""
    doubled = b"".join(b"2\x86" for _ in range(60))
    with pytest.raises(ValueError, match="no text"):
        outline(io.BytesIO(b"\x80\x04)" + doubled + b"2\x93."))


@pytest.mark.parametrize("code", [b"\x8e" + struct.pack("<Q", 1 << 62), b"B" + struct.pack("<I", 0xFFFF_FFFF)])
def test_a_length_that_a_pickle_declares_is_not_allocated(tmp_path, code):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04" + code + b"x.")
    with path.open("rb") as stream, pytest.raises(ValueError, match="too large"):
        outline(stream)
    assert content_of(path).content is Content.OTHER


def test_a_pickle_of_millions_of_opcodes_is_given_up(monkeypatch):
    monkeypatch.setattr(pickles, "_MOST_OPCODES", 1000)
    with pytest.raises(ValueError, match="too long"):
        outline(io.BytesIO(b"\x80\x02" + b"N" * 2000 + b"."))


def test_archives_are_not_unpacked_beyond_what_a_pickle_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export_plugins._torch.archives.MOST_PICKLE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + b"N" * (2 << 20) + b".")
    assert content_of(tmp_path / "bomb.pt").content is Content.OTHER
    (tmp_path / "xz.pt").write_bytes(lzma.compress(_tar(pickle.dumps({"a": 1}))))
    assert content_of(tmp_path / "xz.pt").content is Content.OTHER


def _tar(content):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_settings_of_hugging_face_nested_without_end_are_none(tmp_path):
    (tmp_path / "config.json").write_bytes(DEEP)
    (tmp_path / "model.safetensors").touch()
    assert hugging_face_folder(tmp_path) is None
    assert shards_of(tmp_path / "config.json") == ()


def test_code_that_no_parser_takes_imports_nothing(tmp_path):
    (tmp_path / "nets.py").write_text("x = " + "-" * 100_000 + "1")
    assert [path.name for path in code_files("nets:build", [str(tmp_path)], [str(tmp_path)])] == ["nets.py"]


def test_samples_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export.registry.sample_files._MOST_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 20))
    with pytest.raises(SamplesError, match="unpacked it is larger"):
        read_arrays(tmp_path / "bomb.npz", "bomb.npz")


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(" * 300, "-" * 5000 + "1", "(1e400,)"])
def test_an_array_whose_header_is_a_bomb_is_refused(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(SamplesError):
        read_arrays(tmp_path / "x.npy", "x.npy")
    write_tensors(tmp_path / "tensors", {"x": np.ones(1)})
    (tmp_path / "tensors" / "0.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_tensors(tmp_path / "tensors")


@pytest.mark.parametrize("content", [DEEP, b'{"a": "\xff"}', b"[]"])
def test_a_manifest_a_report_and_an_index_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path)
    with pytest.raises(ArtifactError):
        from_json(content)
    (tmp_path / "index.json").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"index\.json"):
        read_tensors(tmp_path)


def test_an_answer_of_another_shape_is_the_childs_error():
    for value in ({"interface": 1}, [], None, {"interface": {"inputs": [{}]}}):
        with pytest.raises(ChildError, match="cannot be understood"):
            Outcome(value, (), 0.0, 0).of(Reference)


def test_a_core_ml_package_names_no_file_outside_of_itself(tmp_path):
    package = tmp_path / "model.mlpackage"
    (package / "Data").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"")
    for item in ("../../outside", "x" * 5000):
        manifest = {"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": item}}}
        (package / "Manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(VerificationError):
            Package(package)
    (package / "Manifest.json").write_bytes(DEEP)
    with pytest.raises(VerificationError, match=r"Manifest\.json"):
        Package(package)


def test_a_symbol_of_mxnet_with_strange_numbers_is_refused_or_read(tmp_path):
    path = tmp_path / "net-symbol.json"
    node = {"op": "null", "name": "x", "inputs": [], "attrs": {"a": "(" * 300, "b": "-" * 100_000}}
    path.write_text(json.dumps({"nodes": [node], "heads": [[0, 0]]}))
    (read,) = read_symbol(path).nodes
    assert (read.get("a"), read.get("b")) == ("(" * 300, "-" * 100_000)
    for document in ({"attrs": {"mxnet_version": ["int", "x"]}}, {"attrs": []}, {"heads": [[1e400, 0]]}):
        path.write_text(json.dumps({"nodes": [], "heads": []} | document))
        with pytest.raises(SourceError, match="MXNet symbol"):
            read_symbol(path)
    path.write_bytes(DEEP)
    with pytest.raises(SourceError, match="MXNet symbol"):
        read_symbol(path)


def test_a_file_called_checkpoint_may_be_of_any_size(tmp_path):
    with (tmp_path / "checkpoint").open("wb") as file:
        file.write(b'model_checkpoint_path: "cp-2"\n')
        file.truncate(1 << 40)
    for name in ("cp-1.index", "cp-2.index", "cp-3.index"):
        (tmp_path / name).touch()
    assert checkpoint_index(tmp_path).name == "cp-2.index"
    assert not is_keras_2_weights(tmp_path / "cp-2.index")


@pytest.mark.parametrize("shape", [(1 << 62, 1 << 62), (-1,), (1 << 40,), (1 << 32, 1 << 32)])
def test_an_array_of_mxnet_that_is_larger_than_its_file_is_refused(tmp_path, shape):
    head = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<IiI", 0xF993FAC9, 0, len(shape))
    path = tmp_path / "net-0000.params"
    path.write_bytes(head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<iii", 1, 0, 0) + b"x" * 64)
    with pytest.raises(SourceError, match="is torn: it ends inside of an array"):
        read_parameters(path)
