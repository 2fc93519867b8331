"""What a worker with a key signs beyond what it makes: exports that stand already, where something vouches for them.

A signature says that these bytes are the worker's. What merely lies in the store could be anybody's, so that an
export of before is signed only where the ledger has the digest of its manifest, or where it is signed already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from registry_export.entities import ModelVersionRef
from registry_export.errors import ArtifactError, ConfigurationError, UnsignedError
from registry_export.isolation import reached_by_children
from registry_export.ledger import KnownExports
from registry_export.manifest import (
    MANIFEST,
    SIGNATURE,
    STATEMENT,
    Manifest,
    Signer,
    read_manifest,
    sha256_of,
    write_statement,
)
from registry_export.model_setup import ModelSetup
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.settings import SIGNING_KEY, Settings


def signer_of(settings: Settings, setups: Iterable[ModelSetup]) -> Signer | None:
    """Read the key that the settings name; None where they name none.

    Args:
        settings: What the environment says.
        setups: Of the checkpoints that will be loaded: what their rules let them read.

    Raises:
        ConfigurationError: It cannot be used, or a checkpoint's code could read it.
    """
    if settings.signing_key is None:
        return None
    reached = reached_by_children(settings.signing_key, [path for setup in setups for path in setup.modules])
    if reached is not None:
        raise ConfigurationError(
            f"{SIGNING_KEY}={settings.signing_key} lies in {reached}, which every checkpoint's code may read.",
            remedy="Keep the key in a folder of its own, such as /etc/registry-export.",
        )
    return Signer.read(settings.signing_key, settings.signing_key_password)


def sign_in_place(
    signer: Signer,
    registry: Registry,
    ref: ModelVersionRef,
    variant: str,
    manifest_sha256: str,
    stored: Collection[str],
    work: Path,
) -> Path | None:
    """Sign an export that stands in its version's folder, unless it is signed; its model files are not moved.

    Args:
        signer: Signs.
        registry: Where it stands.
        ref: Its version.
        variant: Which export.
        manifest_sha256: The digest of its manifest, in hex, that the ledger has.
        stored: The names of its files.
        work: A folder to work in.

    Returns:
        A folder with what is to be stored beside its files; None where nothing is.

    Raises:
        ArtifactError: Its manifest is not the one that was published.
    """
    for name in (MANIFEST, SIGNATURE):
        if name in stored:
            registry.download_artifact(ref, f"{EXPORTS_FOLDER}/{variant}/{name}", work)
    folder = work / EXPORTS_FOLDER / variant
    if sha256_of(folder / MANIFEST) != manifest_sha256:
        raise ArtifactError(f"its {MANIFEST} is not the one that was published.")
    manifest = read_manifest(folder)
    write_statement(folder, manifest)
    digests = {record.path: record.sha256 for record in (*manifest.files, *manifest.beside)}
    digests |= {name: sha256_of(folder / name) for name in (MANIFEST, STATEMENT)}
    try:
        signer.verifier.compare(folder, variant, digests)
    except ArtifactError:
        signer.sign(folder, manifest)
        (folder / MANIFEST).unlink()
        return folder
    return None


def is_vouched_for(
    signer: Signer, index: KnownExports | None, ref: ModelVersionRef, folder: Path, manifest: Manifest
) -> bool:
    """Say whether an export may be signed anew after another verification: by its signature, or by the ledger.

    Args:
        signer: Whose signature counts.
        index: What the ledger knows; None: nothing.
        ref: The version.
        folder: Its files, which are those of the manifest.
        manifest: The export's.

    Raises:
        ArtifactError: It is signed with the key, and a file is not the one that was signed; names it.
    """
    try:
        signer.verifier.check(folder, manifest)
    except UnsignedError:
        known = index.find([manifest.key]).get(manifest.key, ()) if index is not None and manifest.key else ()
        ours = {one.manifest_sha256 for one in known if (one.model_version, one.variant) == (ref, manifest.variant)}
        return sha256_of(folder / MANIFEST) in ours
    return True
