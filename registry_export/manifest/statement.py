"""`provenance.intoto.json`: the same facts in the form that supply-chain tools read.

An in-toto statement (https://in-toto.io/Statement/v1) over every file of an artifact, whose predicate is SLSA's
provenance (https://slsa.dev/spec/v1.0/provenance): from which bytes, by what, with which options. SLSA has no word
for a verdict; it stands among the by-products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from registry_export.manifest.record import Manifest

STATEMENT = "provenance.intoto.json"

_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
_BUILD = "urn:registry-export:export:v1"
_BUILDER = "urn:registry-export"


def statement_of(manifest: Manifest, manifest_sha256: str, manifest_name: str) -> bytes:
    """Write the statement of an artifact.

    Args:
        manifest: The artifact's.
        manifest_sha256: Digest of the file that holds it, in hex.
        manifest_name: That file's name.

    Returns:
        JSON in UTF-8.
    """
    digests = {record.path: record.sha256 for record in (*manifest.files, *manifest.beside)}
    digests[manifest_name] = manifest_sha256
    statement = {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(digests.items())],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {
                    "model_version": manifest.model_version.uri,
                    "format": manifest.format,
                    "options": dict(manifest.options),
                },
                "internalParameters": {"path": manifest.path, "key": manifest.key},
                "resolvedDependencies": [*_sources(manifest), *_tools(manifest)],
            },
            "runDetails": {
                "builder": {"id": _BUILDER, "version": dict(manifest.tools)},
                "metadata": {"finishedOn": manifest.exported_at},
                "byproducts": [{"name": "verification", "annotations": _verdict(manifest)}],
            },
        },
    }
    return msgspec.json.format(msgspec.json.encode(statement), indent=2) + b"\n"


def contradicts(content: bytes, own: bytes) -> bool:
    """Say whether a stored statement is another than the one that follows from its manifest now.

    One of another version of this module's cannot be told.
    """
    return content != own and _BUILD.encode() in content


def _sources(manifest: Manifest) -> Iterator[dict[str, Any]]:
    made_for = manifest.taken_from or manifest.model_version
    if manifest.source is not None:
        yield {"uri": made_for.uri, "digest": {"sha256": manifest.source.sha256}}


def _tools(manifest: Manifest) -> Iterator[dict[str, Any]]:
    for name, version in manifest.tools.items():
        yield {"uri": f"pkg:pypi/{name}@{version}"}


def _verdict(manifest: Manifest) -> dict[str, Any]:
    found = manifest.verification
    if found is None:
        return {"status": manifest.status}
    return {
        "status": manifest.status,
        "by": found.by,
        "evidence": found.evidence,
        "tolerance": found.tolerance,
        "verified_at": found.verified_at,
        "max_abs_diff": found.metrics.max_abs_diff,
    }
