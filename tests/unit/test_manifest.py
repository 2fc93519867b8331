"""Manifests, digests and keys."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from dataclasses import replace

import msgspec
import pytest
import yaml

from registry_export.config import parse_targets
from registry_export.entities import Description, FileRecord, Interface, ModelVersionRef, Status, TensorSpec, Tolerance
from registry_export.errors import ArtifactError
from registry_export.format import PythonEnvironment
from registry_export.manifest import (
    Manifest,
    combined_digest,
    export_key,
    file_records,
    manifest_digest,
    provenance,
    read_manifest,
    reproduce_command,
    result_of,
    sha256_of,
    signature_of,
    target_text,
    tool_versions,
    verify_files,
    write_artifact,
    write_manifest,
)
from registry_export.manifest import files as manifest_files
from registry_export.registry import ModelFiles
from tests.support import affine
from tests.unit.stub_formats import FORMATS

REF = ModelVersionRef("digits", "3")


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    affine.install(tmp_path / "site", monkeypatch)
    folder = tmp_path / "affine"
    affine.made(folder, REF, affine.result())
    return folder


def test_the_digest_is_the_one_that_sha256sum_computes(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/ä", "a b", "b/0", "Z"):
        (tmp_path / name).write_text(name)
    command = r"find . -type f -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum"
    expected = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert combined_digest(file_records(tmp_path)) == expected.split()[0]


def test_the_digest_does_not_depend_on_the_order_of_the_records():
    records = (FileRecord("a", "1", 1), FileRecord("b", "2", 1))
    assert combined_digest(records) == combined_digest(records[::-1])
    assert combined_digest(records) != combined_digest(records[:1])


def test_a_link_in_an_artifact_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="link is a symbolic link"):
        file_records(tmp_path)


def test_a_manifest_comes_back_as_it_was_written(artifact):
    manifest = verify_files(artifact)
    assert manifest.schema_version == 1
    assert manifest.sha256 == combined_digest(file_records(artifact, exclude=affine_own()))
    assert [record.path for record in manifest.files] == ["model.npz"]
    assert manifest.interface == affine.INTERFACE
    assert manifest.command == "registry-export export models:/digits/3 --target affine --force"
    write_manifest(artifact, manifest)
    assert read_manifest(artifact) == manifest


def affine_own():
    return {"MLmodel", "manifest.json", "provenance.intoto.json", "requirements.txt", "python_env.yaml"}


@pytest.mark.parametrize("name", sorted({"model.npz"} | affine_own()))
def test_a_changed_byte_in_any_file_is_refused_with_its_name(artifact, name):
    path = artifact / name
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ArtifactError, match=re.escape(name)):
        verify_files(artifact)


def test_the_statement_names_every_file_the_source_and_the_verdict(artifact):
    statement = json.loads((artifact / "provenance.intoto.json").read_text())
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    named = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    there = {path.name: sha256_of(path) for path in artifact.iterdir() if path.name != "provenance.intoto.json"}
    assert named == there
    manifest = read_manifest(artifact)
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["model_version"] == "models:/digits/3"
    assert definition["resolvedDependencies"][0] == {
        "uri": "models:/digits/3",
        "digest": {"sha256": manifest.source.sha256},
    }
    assert {"uri": f"pkg:pypi/mlflow@{manifest.tools['mlflow']}"} in definition["resolvedDependencies"]
    assert statement["predicate"]["runDetails"]["byproducts"][0]["annotations"]["status"] == manifest.status


def test_a_missing_file_is_named(artifact):
    (artifact / "model.npz").unlink()
    with pytest.raises(ArtifactError, match=r"model\.npz is missing"):
        verify_files(artifact)


def test_a_file_replaced_by_a_link_out_of_the_folder_is_refused(artifact, tmp_path):
    path = artifact / "model.npz"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"model\.npz is missing"):
        verify_files(artifact)


def test_a_file_left_over_by_an_earlier_export_does_not_spoil_this_one(artifact):
    (artifact / "model.onnx.data").write_text("old")
    assert verify_files(artifact).files[0].path == "model.npz"


@pytest.mark.parametrize("path", ["../model.npz", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_manifest_that_names_files_outside_its_folder_is_refused(artifact, path):
    manifest = read_manifest(artifact)
    write_manifest(artifact, replace(manifest, files=(replace(manifest.files[0], path=path),)))
    with pytest.raises(ArtifactError, match="not inside its folder"):
        read_manifest(artifact)


def test_a_manifest_whose_digest_was_changed_is_refused(artifact):
    write_manifest(artifact, replace(read_manifest(artifact), sha256="0" * 64))
    with pytest.raises(ArtifactError, match="not that of its files"):
        verify_files(artifact)


def test_a_damaged_manifest_says_so(artifact):
    (artifact / "manifest.json").write_text('{"schema_version": 1')
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(artifact)


def test_a_manifest_of_a_newer_schema_asks_for_an_upgrade(artifact):
    write_manifest(artifact, replace(read_manifest(artifact), schema_version=2))
    with pytest.raises(ArtifactError, match="Upgrade registry-export"):
        read_manifest(artifact)


def test_a_manifest_of_a_later_release_with_more_fields_is_read(artifact):
    content = msgspec.json.decode((artifact / "manifest.json").read_bytes())
    (artifact / "manifest.json").write_bytes(msgspec.json.encode(content | {"signature": "later"}))
    assert isinstance(read_manifest(artifact), Manifest)


KEY = {
    "source_sha256": "a",
    "samples_sha256": "b",
    "format": "onnx",
    "options": {"opset_version": 17, "optimize": True},
    "routes": [("pytorch", "onnx")],
    "tolerance": None,
    "tools": {"torch": "2.13.0", "onnx": "1.23"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"source_sha256": "c"},
        {"code_sha256": "c"},
        {"allow_pickle": False},
        {"environments": [PythonEnvironment("3.11", ("mxnet==1.9.1",))]},
        {"samples_sha256": ""},
        {"format": "tflite"},
        {"options": {"opset_version": 18, "optimize": True}},
        {"routes": [("pytorch", "torchscript", "onnx")]},
        {"tolerance": Tolerance(1e-3, 1e-3)},
        {"tools": {"torch": "2.13.1", "onnx": "1.23"}},
    ],
)
def test_the_key_changes_with_everything_that_a_result_depends_on(change):
    assert export_key(**KEY) != export_key(**(KEY | change))


@pytest.mark.parametrize("part", ["machine", "system"])
def test_the_key_is_another_on_another_kind_of_machine(monkeypatch, part):
    here = export_key(**KEY)
    monkeypatch.setattr(f"platform.{part}", lambda: "another")
    assert export_key(**KEY) != here


def test_the_packages_that_bring_formats_are_among_the_tools(artifact):
    provenance._tool_versions.cache_clear()
    try:
        assert tool_versions()["affine-export"] == "1.0"
    finally:
        provenance._tool_versions.cache_clear()


def test_a_manifest_says_of_its_export_what_the_report_said(tmp_path, artifact):
    told = affine.result(precision="fp16", taken_from=ModelVersionRef("digits", "2"), notes=("a note",))
    outcome = affine.made(tmp_path / "told", REF, told)
    manifest = read_manifest(tmp_path / "told")
    assert result_of(manifest) == replace(outcome, reused=True)
    assert manifest_digest(manifest) == sha256_of(tmp_path / "told" / "manifest.json")


def test_the_key_does_not_depend_on_the_order_of_mappings():
    swapped = {"options": {"optimize": True, "opset_version": 17}, "tools": {"onnx": "1.23", "torch": "2.13.0"}}
    assert export_key(**KEY) == export_key(**(KEY | swapped))


@pytest.mark.parametrize(
    "text",
    [
        "onnx",
        "onnx:opset_version=17",
        "onnx:opset_version=17:optimize=false",
        "onnx:dynamic_dimensions=x.1=seq+y.z.2=seq",
        "torchscript:method=script:freeze=true",
        "tflite:scale=0.5",
    ],
)
def test_the_command_that_reproduces_a_target_means_that_target(text):
    (target,) = parse_targets(text, "test", FORMATS)
    command = reproduce_command(REF, target.format, target.options, FORMATS)
    assert command == f"registry-export export models:/digits/3 --target {text} --force"
    defaults = {option.name: option.default for option in FORMATS[target.format].options}
    assert parse_targets(target_text(target.format, target.options, defaults), "test", FORMATS) == (target,)


def test_a_model_name_with_a_space_survives_the_shell():
    command = reproduce_command(ModelVersionRef("my digits", "1"), "onnx", {}, FORMATS)
    assert "'models:/my digits/1'" in command


def test_a_signature_is_made_from_the_interface():
    import mlflow.models

    specs = (TensorSpec("a", "int64", ("batch", "a_1")), TensorSpec("b", "float32", ("batch", 3)))
    signature = mlflow.models.ModelSignature.from_dict(signature_of(Interface(specs, specs[:1])))
    assert signature.inputs.input_names() == ["a", "b"]
    assert [spec.shape for spec in signature.inputs.inputs] == [(-1, -1), (-1, 3)]
    assert not signature.outputs.has_input_names()


@pytest.mark.parametrize("spec", [TensorSpec("x", "bfloat16", (1,)), TensorSpec("x", "float32", None)])
def test_what_mlflow_cannot_express_has_no_signature(spec):
    assert signature_of(Interface((spec,))) is None


def test_several_outputs_are_promised_under_the_names_that_they_come_with(artifact):
    def interface(*names):
        return Interface(affine.INTERFACE.inputs, tuple(TensorSpec(name, "float32", ("batch", 3)) for name in names))

    outcome = affine.result(description=Description(interface("kind", "price")))
    logged = interface("output_0", "output_1")
    files = ModelFiles(interface=logged, signature=signature_of(logged))
    write_artifact(artifact, affine.report(REF, outcome), outcome, files)
    promised = json.loads(yaml.safe_load((artifact / "MLmodel").read_text())["signature"]["outputs"])
    assert [output["name"] for output in promised] == ["kind", "price"]


def test_the_outputs_of_a_wrapped_model_are_not_promised_to_be_those_of_the_logged_one(artifact):
    outcome = affine.result()
    logged = Interface(affine.INTERFACE.inputs, (TensorSpec("logits", "float32", ("batch", 10)),))
    for source, outputs in ((affine.INTERFACE, affine.INTERFACE), (logged, affine.INTERFACE)):
        files = ModelFiles(interface=source, signature=signature_of(source))
        write_artifact(artifact, affine.report(REF, outcome), outcome, files)
        document = yaml.safe_load((artifact / "MLmodel").read_text())
        assert document["signature"]["inputs"] == files.signature["inputs"]
        assert document["signature"]["outputs"] == signature_of(outputs)["outputs"]


def test_the_mlmodel_has_what_mlflow_requires(artifact):
    document = yaml.safe_load((artifact / "MLmodel").read_text())
    assert document["flavors"]["python_function"]["loader_module"] == "registry_export.pyfunc"
    assert {"mlflow_version", "model_uuid", "utc_time_created", "signature"} <= set(document)
    assert (artifact / document["flavors"]["python_function"]["env"]["virtualenv"]).exists()


def test_a_format_whose_file_is_missing_is_not_described(tmp_path, monkeypatch):
    affine.install(tmp_path / "site", monkeypatch)
    outcome = affine.result(status=Status.VERIFIED)
    folder = tmp_path / "empty"
    folder.mkdir()
    from registry_export.manifest import make_manifest

    with pytest.raises(ArtifactError, match=r"affine has no model\.npz"):
        make_manifest(folder, affine.report(REF, outcome), outcome)


def _settled(path, content):
    path.write_bytes(content)
    long_ago = path.stat().st_mtime_ns - 10_000_000_000
    os.utime(path, ns=(long_ago, long_ago))


def test_a_file_is_digested_once_whatever_its_name(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(manifest_files, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    _settled(tmp_path / "weights", b"one")
    before = file_records(tmp_path)
    (tmp_path / "other").hardlink_to(tmp_path / "weights")
    again = file_records(tmp_path)
    assert read == ["weights"]
    assert {record.sha256 for record in (*before, *again)} == {hashlib.sha256(b"one").hexdigest()}


def test_a_file_that_has_changed_is_digested_again(tmp_path):
    _settled(tmp_path / "weights", b"one")
    file_records(tmp_path)
    (tmp_path / "weights").write_bytes(b"two")
    assert file_records(tmp_path)[0].sha256 == hashlib.sha256(b"two").hexdigest()


def test_a_digest_is_not_remembered_while_another_write_would_not_show(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    state = path.stat()
    file_records(tmp_path)
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file_records(tmp_path)[0].sha256 == hashlib.sha256(b"two").hexdigest()
