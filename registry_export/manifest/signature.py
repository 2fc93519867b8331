"""Who signs an artifact, and whose signature is taken: keys on NIST's curves, over every file (`bundle`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.errors import ArtifactError, ConfigurationError, UnsignedError
from registry_export.manifest.bundle import SIGNATURE, Bundle, changed, encoded, payload_of, read_bundle
from registry_export.manifest.files import sha256_of
from registry_export.manifest.statement import STATEMENT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

    from registry_export.manifest.record import Manifest

_MANIFEST = "manifest.json"

_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""By curve: what is signed with it, as Sigstore lays down."""

_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\n?", re.DOTALL)
_MOST_KEY_BYTES = 64 * 1024
_ADDED_BY_MLFLOW = frozenset({"registered_model_meta"})
"""What MLflow writes into a folder that it has downloaded; no format reads it."""
_MOST_NAMED = 3


@dataclass(frozen=True)
class Verifier:
    """The public keys of which one must have signed.

    Attributes:
        keys: By their identifier: SHA-256, in hex, of the key's PEM text.
        place: Where they were read, for sentences.
    """

    keys: Mapping[str, EllipticCurvePublicKey]
    place: str

    @classmethod
    def read(cls, path: Path) -> Verifier:
        """Read a PEM file with one or more public keys on the curves P-256, P-384 or P-521.

        Raises:
            ConfigurationError: It cannot be read, or holds something else.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        remedy = "Give the public key that belongs to the worker's (openssl ec -in KEY -pubout)."
        try:
            keys = [load_pem_public_key(block) for block in _PUBLIC_KEY.findall(_key_text(path))]
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{path} holds a public key that cannot be read.", remedy=remedy) from error
        if not keys:
            raise ConfigurationError(f"{path} holds no public key.", remedy=remedy)
        return cls({key_id(key): key for key in (_on_a_curve(key, path) for key in keys)}, str(path))

    def check(self, folder: Path, manifest: Manifest) -> None:
        """Check the signature of an artifact whose files are those of its manifest (`verify_files`).

        Args:
            folder: Holds all of it.
            manifest: The artifact's.

        Raises:
            UnsignedError: It is not signed, or by another key.
            ArtifactError: A file is not the one that was signed; names it.
        """
        self.compare(folder, manifest.variant, _digests_in(folder, manifest))

    def compare(self, folder: Path, variant: str, digests: Mapping[str, str]) -> None:
        """Compare digests, by the path of each file, with those that the signature in a folder covers; see `check`."""
        signed = self._signed_digests(folder / SIGNATURE, variant)
        names = sorted(name for name in {*signed, *digests} if signed.get(name) != digests.get(name))
        if names:
            others = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            raise ArtifactError(
                f"{variant}: {', '.join(names[:_MOST_NAMED])}{others} {'is' if len(names) == 1 else 'are'} not what "
                "was signed.",
                remedy="The export was changed, or the signature is another export's; export it again.",
            )

    def _signed_digests(self, path: Path, variant: str) -> dict[str, str]:
        if not path.is_file():
            raise UnsignedError(
                f"{variant} is not signed, and a signature by {self.place} is asked for.",
                remedy="Promote the version again where REGISTRY_EXPORT_SIGNING_KEY is set.",
            )
        bundle = read_bundle(path, variant)
        if not any(_has_signed(key, bundle) for key in self._keys_for(bundle, variant)):
            if bundle.key_id:
                raise changed(variant)
            raise UnsignedError(f"{variant}: its signature names no key, and is by none that {self.place} holds.")
        return bundle.digests(variant)

    def _keys_for(self, bundle: Bundle, variant: str) -> Iterable[EllipticCurvePublicKey]:
        """Return the key that a signature says it is by; all of them where it says nothing."""
        if not bundle.key_id:
            return self.keys.values()
        if bundle.key_id not in self.keys:
            raise UnsignedError(f"{variant} is signed by another key than {self.place} holds.")
        return (self.keys[bundle.key_id],)


@dataclass(frozen=True)
class Signer:
    """A private key that signs artifacts. Its text form shows where it was read, and nothing of the key."""

    _key: EllipticCurvePrivateKey
    place: str

    @classmethod
    def read(cls, path: Path, password: str | None = None) -> Signer:
        """Read a PEM file with a private key on the curve P-256, P-384 or P-521.

        Args:
            path: The file.
            password: Decrypts it; None where it is not encrypted.

        Raises:
            ConfigurationError: It cannot be read, or holds something else; nothing of its content is told.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_key_text(path), password.encode() if password else None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigurationError(
                f"{path} is no private key in PEM that can be read {'with' if password else 'without'} a password.",
                remedy="Make one with `openssl ecparam -name prime256v1 -genkey -noout`; "
                "REGISTRY_EXPORT_SIGNING_KEY_PASSWORD is for encrypted ones.",
            ) from None
        _on_a_curve(key.public_key(), path)
        return cls(key, str(path))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Signer({self.place})"

    @property
    def verifier(self) -> Verifier:
        """What takes this key's signatures, and no others."""
        public = self._key.public_key()
        return Verifier({key_id(public): public}, self.place)

    def sign(self, folder: Path, manifest: Manifest) -> None:
        """Write the signature of an artifact whose every other file is in place; digests of model files are not redone.

        Args:
            folder: Holds `manifest.json` and the statement.
            manifest: The artifact's.
        """
        records = {record.path: record.sha256 for record in (*manifest.files, *manifest.beside)}
        records |= {name: sha256_of(folder / name) for name in (_MANIFEST, STATEMENT)}
        payload = payload_of(manifest.variant, records)
        signature = self._key.sign(encoded(payload), _algorithm(self._key.curve.name))
        bundle = Bundle(payload, signature, key_id(self._key.public_key()))
        (folder / SIGNATURE).write_bytes(bundle.written())


def key_id(key: EllipticCurvePublicKey) -> str:
    """Identify a public key as the bundles do: SHA-256, in hex, of its PEM text."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _key_text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise ConfigurationError(f"The key {path} cannot be read: {error.strerror}.") from error


def _on_a_curve(key: Any, path: Path) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ConfigurationError(
            f"The key in {path} is on none of the curves P-256, P-384 and P-521.",
            remedy="Make one with `openssl ecparam -name prime256v1 -genkey -noout`.",
        )
    return key


def _algorithm(curve: str) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _HASHES[curve])())


def _has_signed(key: EllipticCurvePublicKey, bundle: Bundle) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bundle.signature, encoded(bundle.payload), _algorithm(key.curve.name))
    except InvalidSignature:
        return False
    return True


def _digests_in(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Digest every file of a folder; those that the manifest names have been compared with it."""
    known = {record.path: record.sha256 for record in (*manifest.files, *manifest.beside)}
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ArtifactError(f"{manifest.variant}: {name} is a symbolic link.")
        if path.is_file() and name != SIGNATURE and name not in _ADDED_BY_MLFLOW:
            found[name] = known.get(name) or sha256_of(path)
    return found
