"""`model.sig`: a signature over every file of an artifact, as OpenSSF Model Signing has it.

The file is what `model_signing sign key` writes and `model_signing verify key` reads
(https://github.com/sigstore/model-transparency): a Sigstore bundle
(https://docs.sigstore.dev/about/bundle/) around a DSSE envelope
(https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md) around an in-toto statement that lists the digest
of each file. It is written here, with `cryptography`, which MLflow brings: the digests are known already, and the
package `model-signing` cannot be installed beside TFLite's converter. The tests hold both against each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from registry_export.errors import ArtifactError

SIGNATURE = "model.sig"

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_MOST_BYTES = 64 * 1024**2


class _PublicKey(msgspec.Struct):
    hint: str | None = None


class _Material(msgspec.Struct):
    public_key: _PublicKey = msgspec.field(name="publicKey")


class _Signed(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct):
    payload: bytes
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signed, ...]


class _Bundle(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType")
    verification_material: _Material = msgspec.field(name="verificationMaterial")
    dsse_envelope: _Envelope = msgspec.field(name="dsseEnvelope")


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct):
    type: str = msgspec.field(name="_type")
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: _Predicate


@dataclass(frozen=True)
class Bundle:
    """What of a bundle counts.

    Attributes:
        payload: The statement, as it was signed.
        signature: Over the payload, `encoded`.
        key_id: Whose it says it is, which is not signed; empty: it says nothing.
    """

    payload: bytes
    signature: bytes
    key_id: str

    def written(self) -> bytes:
        """Return the text of the file."""
        bundle = {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": self.key_id}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": self.payload,
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": self.signature, "keyid": ""}],
            },
        }
        return msgspec.json.encode(bundle)

    def digests(self, variant: str) -> dict[str, str]:
        """Return the digest of every file that is signed, by its path.

        Raises:
            ArtifactError: Something else was signed.
        """
        try:
            statement = msgspec.json.decode(self.payload, type=_Statement)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise changed(variant) from error
        resources = statement.predicate.resources
        is_ours = (statement.type, statement.predicate_type) == (_STATEMENT_TYPE, _PREDICATE)
        if not is_ours or any(resource.algorithm != "sha256" for resource in resources):
            raise ArtifactError(f"{variant}: {SIGNATURE} signs something else than the SHA-256 of files.")
        return {resource.name: resource.digest for resource in resources}


def read_bundle(path: Path, variant: str) -> Bundle:
    """Read the signature of an artifact; nothing of it is checked yet.

    Raises:
        ArtifactError: It is no such bundle.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        bundle = msgspec.json.decode(content, type=_Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise changed(variant) from error
    envelope = bundle.dsse_envelope
    if (bundle.media_type, envelope.payload_type) != (_BUNDLE, _PAYLOAD) or not envelope.signatures:
        raise changed(variant)
    return Bundle(envelope.payload, envelope.signatures[0].sig, bundle.verification_material.public_key.hint or "")


def changed(variant: str) -> ArtifactError:
    """Build the error for a signature that cannot have been made so."""
    return ArtifactError(
        f"{variant}: {SIGNATURE} was changed: it holds no signature that is valid.",
        remedy="Promote the version again where REGISTRY_EXPORT_SIGNING_KEY is set.",
    )


def encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed in the payload's place."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def payload_of(name: str, digests: Mapping[str, str]) -> bytes:
    """Return the statement that is signed: the digest of each file by its path, of an artifact of this name."""
    ordered = sorted(digests.items(), key=lambda item: PurePosixPath(item[0]))
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered],
        },
    }
    return msgspec.json.encode(statement)
