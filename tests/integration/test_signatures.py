"""Signed exports on a real server: what signs them, what is refused, and what is signed without being made again."""

from __future__ import annotations

import json

import mlflow
import numpy as np
import pytest

import registry_export
from registry_export.cli import main
from registry_export.errors import ArtifactError, UnsignedError
from registry_export.exports import pull
from registry_export.manifest import Signer, Verifier
from tests.support.planted_versions import Steps, count
from tests.support.signing_keys import key_pair, model_signing


@pytest.fixture(scope="module")
def server(mlflow_server):
    """The one that the modules share."""
    return mlflow_server


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signer(keys):
    return Signer.read(keys[0])


@pytest.fixture
def fetched(versions, keys, tmp_path):
    """Pulls an export with the public key asked for."""

    def fetch(ref, variant="planted"):
        verifier = Verifier.read(keys[1])
        output = tmp_path / "out"
        return pull(ref.uri, variant, output, registry=versions.registry, formats=versions.formats, verifier=verifier)

    return fetch


def test_what_was_signed_is_pulled_and_verified_by_model_signing_for_all_versions_that_share_it(
    versions, name, signer, keys, fetched
):
    ref = versions.register(name)
    versions.export(ref, signer=signer)
    source = versions.client.get_model_version(ref.name, ref.version)
    same = versions.client.create_model_version(name, source.source, source.run_id)
    fetched(type(ref)(name, str(same.version)))
    path = fetched(ref)
    assert path.is_file()
    ask = ("verify", "key", path.parent, "--signature", path.parent / "model.sig", "--public_key", keys[1])
    theirs = model_signing(*ask)
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    (path.parent / "MLmodel").write_text("other")
    assert model_signing(*ask).returncode != 0


def test_with_a_key_asked_for_what_is_not_signed_is_refused_and_without_one_it_is_not(
    versions, name, signer, fetched, tmp_path
):
    ref = versions.register(name)
    versions.export(ref)
    with pytest.raises(UnsignedError, match="planted is not signed"):
        fetched(ref)
    assert not (tmp_path / "out").exists(), "nothing is left of what was refused"
    pull(ref.uri, "planted", tmp_path / "any", registry=versions.registry, formats=versions.formats)


def test_another_key_is_refused(versions, name, tmp_path, fetched):
    ref = versions.register(name)
    versions.export(ref, signer=Signer.read(key_pair(tmp_path, "other")[0]))
    with pytest.raises(UnsignedError, match="another key"):
        fetched(ref)


FILES = ("model.planted", "manifest.json", "MLmodel", "provenance.intoto.json", "requirements.txt", "model.sig")


def test_a_changed_byte_in_the_store_is_refused_with_the_name_of_its_file(versions, name, signer, fetched):
    ref = versions.register(name)
    versions.export(ref, signer=signer)
    for file in FILES:
        whole = versions.stored(ref, f"exports/planted/{file}")
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        versions.store(ref, f"exports/planted/{file}", changed)
        with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
            fetched(ref)
        versions.store(ref, f"exports/planted/{file}", whole)
    fetched(ref)


def test_a_signature_and_a_whole_export_of_another_version_are_refused(versions, name, signer, fetched):
    first, second = versions.register(name), versions.register(name, scale=3.0)
    for ref in (first, second):
        versions.export(ref, signer=signer)
    versions.store(second, "exports/planted/model.sig", versions.stored(first, "exports/planted/model.sig"))
    with pytest.raises(ArtifactError, match=r"manifest\.json.*are not what was signed"):
        fetched(second)
    for path in versions.registry.list_artifacts(first, "exports"):  # the report too
        versions.store(second, path, versions.stored(first, path))
    with pytest.raises(ArtifactError, match=rf"planted of {second} was signed as an export of {first}"):
        fetched(second)
    fetched(first)


def test_a_verdict_that_only_the_report_tells_is_not_believed(versions, name, signer, fetched):
    ref = versions.register(name)
    versions.export(ref, "planted:fault=wrong", signer=signer)
    variant = "planted-wrong"
    report = json.loads(versions.stored(ref, "exports/report.json"))
    result = {target["variant"]: target for target in report["targets"]}[variant]
    assert result["status"] == "mismatch"
    result["status"] = "verified"
    versions.store(ref, "exports/report.json", json.dumps(report).encode())
    with pytest.raises(ArtifactError, match="is not handed out: mismatch"):
        fetched(ref, variant)


def test_exports_of_before_the_key_are_signed_where_they_stand(versions, name, signer, fetched, index):
    ref = versions.register(name)
    versions.export(ref, index=index)
    before = versions.stored(ref, "exports/planted/manifest.json")
    report, conversions, steps = count(versions, ref, index=index, signer=signer)
    assert (conversions, report.targets[0].reused) == (0, True)
    assert "reference" not in steps.names
    assert versions.stored(ref, "exports/planted/manifest.json") == before
    fetched(ref)
    signature = versions.stored(ref, "exports/planted/model.sig")
    count(versions, ref, index=index, signer=signer)
    assert versions.stored(ref, "exports/planted/model.sig") == signature, "what is signed is not signed again"


def test_a_new_key_takes_over_what_the_old_one_signed(versions, name, signer, fetched, index, tmp_path):
    ref = versions.register(name)
    versions.export(ref, index=index, signer=Signer.read(key_pair(tmp_path, "old")[0]))
    assert count(versions, ref, index=index, signer=signer)[1] == 0
    fetched(ref)


def test_what_is_taken_over_from_another_version_is_signed_as_the_new_ones(versions, name, signer, fetched, index):
    first, second = versions.register(name), versions.register(name)
    versions.export(first, index=index)
    report, conversions, _ = count(versions, second, index=index, signer=signer)
    assert (conversions, report.targets[0].taken_from) == (0, first)
    fetched(second)
    with pytest.raises(UnsignedError):
        fetched(first)


def test_what_only_fits_itself_is_made_anew_and_never_signed(versions, name, signer, fetched):
    """Without the ledger's word a whole folder in the store could be anybody's: signing it would launder it."""
    ref, forged = versions.register(name), versions.register(f"{name}-forged", scale=7.0)
    versions.export(ref)
    versions.export(forged)
    own = json.loads(versions.stored(ref, "exports/report.json"))["targets"][0]["key"]
    for path in versions.registry.list_artifacts(forged, "exports"):
        content = versions.stored(forged, path)
        theirs = json.loads(versions.stored(forged, "exports/report.json"))["targets"][0]["key"]
        versions.store(ref, path, content.replace(theirs.encode(), own.encode()))
    report, conversions, steps = count(versions, ref, signer=signer)
    assert (conversions, report.targets[0].reused) == (1, False), steps.notes
    fetched(ref)


def test_another_verification_signs_anew_what_was_signed(versions, name, signer, fetched):
    ref = versions.register(name)
    versions.export(ref, signer=signer)
    before = versions.stored(ref, "exports/planted/manifest.json")
    versions.verify(ref, signer=signer)
    assert versions.stored(ref, "exports/planted/manifest.json") != before
    fetched(ref)


@pytest.mark.slow
def test_another_verification_signs_what_the_ledger_knows_and_nothing_else(versions, name, signer, fetched, index):
    known, unknown = versions.register(name), versions.register(f"{name}-unknown", scale=4.0)
    versions.export(known, index=index)
    versions.export(unknown)
    versions.verify(known, index=index, signer=signer)
    fetched(known)
    steps = Steps()
    report = versions.verify(unknown, index=index, signer=signer, reporter=steps)
    assert report.targets[0].status == "verified"
    assert any("planted is not signed: neither a signature nor the ledger vouches" in note for note in steps.notes)
    with pytest.raises(UnsignedError):
        fetched(unknown)


def test_another_verification_fails_what_was_changed_with_its_manifest(versions, name, signer):
    ref, forged = versions.register(name), versions.register(f"{name}-forged", scale=7.0)
    for version in (ref, forged):
        versions.export(version, signer=signer)
    for path in versions.registry.list_artifacts(forged, "exports"):
        if not path.endswith("model.sig"):
            versions.store(ref, path, versions.stored(forged, path))
    report = versions.verify(ref, signer=signer)
    assert report.targets[0].status == "failed"
    assert "not what was signed" in report.targets[0].error.message


def test_loading_asks_for_the_key_in_python_and_in_mlflow(versions, name, signer, keys, tmp_path, monkeypatch):
    ref, unsigned = versions.register(name), versions.register(f"{name}-unsigned")
    versions.export(ref, signer=signer)
    versions.export(unsigned)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", versions.uri)
    x = np.ones((2, 3), np.float32)
    with registry_export.load(ref.uri, "planted", verify_key=keys[1]) as model:
        np.testing.assert_array_equal(model.infer({"x": x})["y"], 2 * x + np.float32(0.5))
    with pytest.raises(UnsignedError):
        registry_export.load(unsigned.uri, "planted", verify_key=keys[1])
    mlflow.set_tracking_uri(versions.uri)
    mlflow.pyfunc.load_model(f"{unsigned.uri}/exports/planted")
    monkeypatch.setenv("REGISTRY_EXPORT_VERIFY_KEY", str(keys[1]))
    with pytest.raises(UnsignedError):
        registry_export.load(unsigned.uri, "planted")
    with pytest.raises(UnsignedError):
        mlflow.pyfunc.load_model(f"{unsigned.uri}/exports/planted")
    loaded = mlflow.pyfunc.load_model(f"{ref.uri}/exports/planted")
    np.testing.assert_array_equal(loaded.predict(x)["y"], 2 * x + np.float32(0.5))


def test_the_command_line_signs_and_checks_and_shows_no_key(versions, name, keys, tmp_path, monkeypatch, capfd):
    ref = versions.register(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", versions.uri)
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([*arguments])
        captured = capfd.readouterr()
        said = captured.out + captured.err
        assert not any(line in said for line in keys[0].read_text().splitlines()[1:-1])
        return int(left.value.code or 0), said

    export = ("export", ref.uri, "--target", "planted")
    ask = ("pull", ref.uri, "--target", "planted", "--output", "out", "--verify-key", str(keys[1]))
    assert run(*export)[0] == 0
    code, said = run(*ask)
    assert code == 1
    assert said.count("planted is not signed") == 1
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY", str(keys[0]))
    assert run(*export)[0] == 0
    assert run(*ask)[0] == 0
    assert (tmp_path / "out" / "model.sig").is_file()
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY", str(keys[1]))
    code, said = run(*export)
    assert code == 2
    assert "no private key" in said
