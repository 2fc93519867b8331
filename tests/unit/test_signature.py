"""`model.sig`: what it covers, what it refuses, and that model-signing means the same by it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from registry_export.entities import ModelVersionRef
from registry_export.errors import ArtifactError, ConfigurationError, UnsignedError
from registry_export.manifest import Signer, Verifier, file_records, read_manifest, verify_files
from registry_export.model_setup import ModelSetup
from registry_export.settings import Settings
from registry_export.signing import signer_of
from tests.support import affine
from tests.support.signing_keys import encrypted, key_pair, model_signing

FILES = ("MLmodel", "manifest.json", "model.npz", "provenance.intoto.json", "python_env.yaml", "requirements.txt")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture
def signed(tmp_path, monkeypatch, keys):
    affine.install(tmp_path / "site", monkeypatch)
    folder = tmp_path / "affine"
    affine.made(folder, ModelVersionRef("digits", "3"), affine.result())
    Signer.read(keys[0]).sign(folder, read_manifest(folder))
    return folder


def check(folder, public):
    Verifier.read(public).check(folder, verify_files(folder))


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1", "secp521r1"])
def test_every_curve_signs_and_model_signing_takes_its_signature(signed, tmp_path, curve):
    private, public = key_pair(tmp_path, curve=curve)
    Signer.read(private).sign(signed, read_manifest(signed))
    check(signed, public)
    theirs = model_signing("verify", "key", signed, "--signature", signed / "model.sig", "--public_key", public)
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr


def test_a_signature_by_model_signing_itself_is_taken(signed, keys):
    (signed / "model.sig").unlink()
    with pytest.raises(UnsignedError):
        check(signed, keys[1])
    theirs = model_signing("sign", "key", signed, "--signature", signed / "model.sig", "--private_key", keys[0])
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    check(signed, keys[1])


def test_every_file_is_signed_under_its_name(signed):
    bundle = json.loads((signed / "model.sig").read_text())
    import base64

    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    named = {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}
    assert named == {record.path: record.sha256 for record in file_records(signed, exclude=("model.sig",))}
    assert set(named) == set(FILES)


@pytest.mark.parametrize("name", [*FILES, "model.sig"])
def test_a_changed_byte_in_any_file_is_refused_with_its_name(signed, keys, name):
    path = signed / name
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ArtifactError, match=re.escape(name)):
        check(signed, keys[1])


def test_every_byte_of_the_signature_counts_or_changes_nothing_that_is_signed(signed, keys):
    """Each one flipped in turn: base64's spare bits and a few names may be another way of writing the same."""
    path = signed / "model.sig"
    whole = path.read_bytes()
    verifier, manifest = Verifier.read(keys[1]), verify_files(signed)
    before = verifier._signed_digests(path, "affine")
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            verifier.check(signed, manifest)
            assert verifier._signed_digests(path, "affine") == before
        except ArtifactError:
            refused += 1
    assert refused > 0.95 * len(whole)


def test_what_is_changed_with_its_manifest_is_refused_with_its_name(signed, keys, tmp_path, monkeypatch):
    affine.made(tmp_path / "forged", ModelVersionRef("digits", "3"), affine.result())
    (tmp_path / "forged" / "model.npz").write_bytes((signed / "model.npz").read_bytes() + b"!")
    shutil.copyfile(signed / "model.sig", tmp_path / "forged" / "model.sig")
    from registry_export.manifest import make_manifest, write_manifest  # as an attacker would

    manifest = read_manifest(tmp_path / "forged")
    report = affine.report(ModelVersionRef("digits", "3"), affine.result())
    write_manifest(tmp_path / "forged", make_manifest(tmp_path / "forged", report, affine.result()))
    verify_files(tmp_path / "forged")
    assert manifest.variant == "affine"
    with pytest.raises(ArtifactError, match=r"model\.npz.* are not what was signed"):
        check(tmp_path / "forged", keys[1])


def test_a_file_that_nobody_signed_is_refused_with_its_name(signed, keys):
    (signed / "assets").mkdir()
    (signed / "assets" / "extra.so").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"assets/extra\.so is not what was signed"):
        check(signed, keys[1])


def test_another_key_and_no_signature_are_told_apart_in_one_sentence(signed, keys, other_keys):
    with pytest.raises(UnsignedError, match=r"^affine is signed by another key than \S+other\.pub holds\.$"):
        check(signed, other_keys[1])
    (signed / "model.sig").unlink()
    with pytest.raises(UnsignedError, match=r"affine is not signed.*Promote the version again"):
        check(signed, keys[1])


def test_a_key_that_is_passed_off_as_another_is_refused(signed, keys, other_keys):
    """The identifier of the key is not signed itself."""
    path = signed / "model.sig"
    bundle = json.loads(path.read_text())
    hint = next(iter(Verifier.read(other_keys[1]).keys))
    bundle["verificationMaterial"]["publicKey"]["hint"] = hint
    path.write_text(json.dumps(bundle))
    with pytest.raises(ArtifactError, match=r"model\.sig was changed"):
        check(signed, other_keys[1])
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    path.write_text(json.dumps(bundle))
    check(signed, keys[1])


def test_a_signature_that_names_no_key_is_taken_from_any_of_the_keys_and_from_no_other(
    signed, keys, other_keys, tmp_path
):
    path = signed / "model.sig"
    bundle = json.loads(path.read_text())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    path.write_text(json.dumps(bundle))
    third = key_pair(tmp_path, "third", curve="secp384r1")
    for first, last in ((other_keys, keys), (keys, other_keys), (third, keys)):
        both = tmp_path / "both.pub"
        both.write_bytes(first[1].read_bytes() + last[1].read_bytes())
        check(signed, both)
    both.write_bytes(other_keys[1].read_bytes() + third[1].read_bytes())
    with pytest.raises(UnsignedError, match=r"^affine: its signature names no key, and is by none that \S+both\.pub"):
        check(signed, both)


def test_of_several_public_keys_each_one_is_enough(signed, keys, other_keys, tmp_path):
    both = tmp_path / "both.pub"
    both.write_bytes(other_keys[1].read_bytes() + b"# the next one\n" + keys[1].read_bytes())
    check(signed, both)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no public key"),
        ("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", "cannot be read"),
        ("private", "holds no public key"),
    ],
)
def test_what_is_no_public_key_is_refused_by_its_name(tmp_path, keys, content, said):
    path = tmp_path / "wrong.pub"
    path.write_text(keys[0].read_text() if content == "private" else content)
    with pytest.raises(ConfigurationError, match=rf"wrong\.pub.*{said}"):
        Verifier.read(path)


def test_a_key_on_another_curve_is_refused(tmp_path):
    private, public = key_pair(tmp_path, curve="secp256k1")
    for read, path in ((Signer.read, private), (Verifier.read, public)):
        with pytest.raises(ConfigurationError, match="P-256"):
            read(path)


def test_an_encrypted_key_needs_its_password_and_neither_is_ever_shown(signed, keys, tmp_path):
    path = encrypted(keys[0], "tops3cret")
    for password in (None, "wrong"):
        with pytest.raises(ConfigurationError) as refused:
            Signer.read(path, password)
        assert "tops3cret" not in str(refused.value)
        assert refused.value.__context__ is None or refused.value.__suppress_context__
    signer = Signer.read(path, "tops3cret")
    signer.sign(signed, read_manifest(signed))
    check(signed, keys[1])
    assert repr(signer) == f"Signer({path})"
    settings = Settings.from_environment(
        {"REGISTRY_EXPORT_SIGNING_KEY": str(path), "REGISTRY_EXPORT_SIGNING_KEY_PASSWORD": "tops3cret"}
    )
    assert "tops3cret" not in repr(settings)
    assert settings.signing_key_password == "tops3cret"


def test_a_key_that_is_not_there_is_refused_by_the_name_of_its_variable():
    for name in ("REGISTRY_EXPORT_SIGNING_KEY", "REGISTRY_EXPORT_VERIFY_KEY"):
        with pytest.raises(ConfigurationError, match=f"{name}=/nowhere/key"):
            Settings.from_environment({name: "/nowhere/key"})


def test_a_key_within_reach_of_a_checkpoint_is_refused(tmp_path, keys):
    beside = tmp_path / "project"
    (beside / "package").mkdir(parents=True)
    (beside / "package" / "nets.py").touch()
    setup = ModelSetup(search=(str(beside),))

    def signer(path):
        shutil.copyfile(keys[0], path)
        return signer_of(Settings(None, None, "", None, signing_key=path), [setup])

    with pytest.raises(ConfigurationError, match=r"package, which every checkpoint's code may read"):
        signer(beside / "package" / "key.pem")
    assert signer(beside / "key.pem") is not None, "only modules and folders that have some can be read there"
    (tmp_path / "link.pem").symlink_to(beside / "package" / "key.pem")
    with pytest.raises(ConfigurationError, match="package, which"):
        signer_of(Settings(None, None, "", None, signing_key=tmp_path / "link.pem"), [setup])


def test_the_payload_of_a_signature_is_bounded_and_of_its_own_kind(signed, keys, tmp_path):
    """Somebody with the key may have signed other things."""
    signer = Signer.read(keys[0])
    path = signed / "model.sig"
    for payload in (b"[" * 100_000, b"{}", b'{"_type": 1}', b"\xff", b"null"):
        path.write_bytes(_bundle(signer, payload))
        with pytest.raises(ArtifactError, match=r"model\.sig"):
            check(signed, keys[1])
    other = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "other", "predicate": {"resources": []}}
    path.write_bytes(_bundle(signer, json.dumps(other).encode()))
    with pytest.raises(ArtifactError, match="signs something else"):
        check(signed, keys[1])


def _bundle(signer, payload):
    import base64

    from registry_export.manifest.bundle import encoded
    from registry_export.manifest.signature import _algorithm, key_id

    public = signer._key.public_key()
    signature = signer._key.sign(encoded(payload), _algorithm(public.curve.name))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": key_id(public)}},
            "dsseEnvelope": envelope,
        }
    ).encode()
