"""What one artifact is: its files with their digests, how it was made, and how it was verified.

`manifest.json` lies beside the model files, and so does the `MLmodel` that lets MLflow load and serve them.
"""

from registry_export.manifest.bundle import SIGNATURE
from registry_export.manifest.files import combined_digest, file_records, known_digest, sha256_of
from registry_export.manifest.mlmodel import signature_of, write_artifact, write_mlmodel
from registry_export.manifest.provenance import export_key, reproduce_command, target_text, tool_versions, versions_of
from registry_export.manifest.record import (
    MANIFEST,
    OWN_FILES,
    SCHEMA_VERSION,
    Manifest,
    make_manifest,
    manifest_digest,
    read_manifest,
    result_of,
    verify_files,
    write_manifest,
    write_statement,
)
from registry_export.manifest.signature import Signer, Verifier
from registry_export.manifest.statement import STATEMENT

__all__ = [
    "MANIFEST",
    "OWN_FILES",
    "SCHEMA_VERSION",
    "SIGNATURE",
    "STATEMENT",
    "Manifest",
    "Signer",
    "Verifier",
    "combined_digest",
    "export_key",
    "file_records",
    "known_digest",
    "make_manifest",
    "manifest_digest",
    "read_manifest",
    "reproduce_command",
    "result_of",
    "sha256_of",
    "signature_of",
    "target_text",
    "tool_versions",
    "verify_files",
    "versions_of",
    "write_artifact",
    "write_manifest",
    "write_mlmodel",
    "write_statement",
]
