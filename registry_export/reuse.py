"""What need not be made again: verified exports of this version, and of any other with the same content.

So are those that wait for a runtime: a worker that has it verifies what is stored, and nothing is converted for that.

The ledger tells where they are. What stands in this version's own folder stays there; what was made for another
version is fetched, and becomes files of this one. Anybody may write into an artifact store, so nothing there is
believed without the digest that the ledger has of it; what is gone, changed or in doubt is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from registry_export.entities import ExportReport, ModelVersionRef, SourceRecord, TargetResult
from registry_export.errors import ArtifactError, LedgerError, RegistryError
from registry_export.exports import drop_strangers, fetch
from registry_export.ledger import KnownExport, KnownExports
from registry_export.manifest import (
    MANIFEST,
    OWN_FILES,
    Manifest,
    Signer,
    result_of,
    sha256_of,
    verify_files,
)
from registry_export.page import read_report
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.report import result_digest
from registry_export.reporter import Reporter
from registry_export.signing import sign_in_place
from registry_export.vouching import forget, is_settled

_AT_ONCE = 4
_MOST_PLACES = 3
"""So many versions are asked for one export before it is made anew."""

Places = Mapping[str, tuple[KnownExport, ...]]
"""By key: where the ledger knows an export."""

Own = tuple[ExportReport | None, Mapping[str, int | None]]
"""A version's report, and the sizes of its exports' files in bytes."""


@dataclass(frozen=True)
class Kept:
    """What need not be made again.

    Attributes:
        results: By variant; `required` is for the caller to say.
        folders: Of those that were made for another version, the files; to be published for this one.
        signed: Of the others, the new signature where they had none, in a folder; to be stored beside their files.
        known: Of the others, what the ledger should know.
        report: The version's own, as it is now; None: it has none.
        source: What running the same checkpoint for another version has shown; None: nothing was taken over.
    """

    results: dict[str, TargetResult] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    signed: dict[str, Path] = field(default_factory=dict)
    known: tuple[KnownExport, ...] = ()
    source: SourceRecord | None = None
    report: ExportReport | None = None

    def known_source(self, record: SourceRecord) -> SourceRecord:
        """Return a checkpoint's record with what is known of the same one already."""
        own = self.report.source if self.report is not None else None
        if self.source is None and own is not None and own.sha256 == record.sha256 and own.evidence:
            return own
        if self.source is None:
            return record
        return replace(self.source, sha256=record.sha256, size_bytes=record.size_bytes)


@dataclass(frozen=True)
class Found:
    """One of them.

    Attributes:
        result: What it is.
        manifest_sha256: Digest of its manifest; empty where the ledger does not vouch for it.
        source: The source's record, where it was fetched.
        folder: Its files, where they were fetched.
        signed: Its new signature, in a folder, where it had none.
    """

    result: TargetResult
    manifest_sha256: str
    source: SourceRecord | None = None
    folder: Path | None = None
    signed: Path | None = None


@dataclass(frozen=True)
class Shelf:
    """Where exports are looked for.

    Attributes:
        registry: Has the files.
        ref: The version that they are wanted for.
        index: What the ledger knows; None where there is no ledger: only the version's own exports are found then.
        work: A folder to download to.
        reporter: Hears of what is in doubt.
        signer: Must have signed what is kept, or signs it; None: signatures are nobody's business.
    """

    registry: Registry
    ref: ModelVersionRef
    index: KnownExports | None
    work: Path
    reporter: Reporter
    signer: Signer | None = None

    def read_own(self) -> Own:
        """Read what the version has of its own: its report, and the sizes of its exports' files."""
        report = read_report(self.registry, self.ref)
        return report, self.registry.list_sizes(self.ref, EXPORTS_FOLDER) if report is not None else {}

    def look_up(self, keys: Mapping[str, str], own: Own | None = None) -> Kept:
        """Find what is verified already.

        Args:
            keys: The key of each variant that is wanted.
            own: What `read_own` returned, where it was read beside something else.

        Raises:
            RegistryUnavailableError: The registry or its artifact store does not answer.
        """
        places: Places = {}
        if self.index is not None:
            try:
                places = self.index.find(set(keys.values()))
            except LedgerError as error:
                self.reporter.note(f"What was exported before is not known: {error}")
        report, sizes = own or self.read_own()
        standing = _in_place(self, report, sizes, keys, places)
        missing = {variant: key for variant, key in keys.items() if variant not in standing}
        taken = _taken_over(self, missing, places)
        return Kept(
            results={variant: found.result for variant, found in (*standing.items(), *taken.items())},
            folders={variant: found.folder for variant, found in taken.items() if found.folder is not None},
            signed={variant: found.signed for variant, found in standing.items() if found.signed is not None},
            known=tuple(
                KnownExport(keys[variant], self.ref, variant, found.manifest_sha256, result_digest(found.result))
                for variant, found in standing.items()
                if found.manifest_sha256
            ),
            source=next((found.source for found in taken.values()), None),
            report=report,
        )

    def attempt(self, variant: str, ref: ModelVersionRef, look: Callable[[], Found]) -> Found | None:
        """Look at one export; what is gone or in doubt is forgotten, and said in a note."""
        try:
            return look()
        except (ArtifactError, RegistryError) as error:
            if error.transient:
                raise
            self.reporter.note(f"{variant} of {ref} is not used again: {error}")
            # What this worker may not read can be as it should: that is no reason to close a gate.
            forget(self.index, ref, [variant], standing=() if isinstance(error, ArtifactError) else [variant])
            return None


def _in_place(
    shelf: Shelf,
    report: ExportReport | None,
    sizes: Mapping[str, int | None],
    keys: Mapping[str, str],
    places: Places,
) -> dict[str, Found]:
    """Find the exports that stand in the version's own folder."""
    # The report is the first to be changed before a file is: what it does not name may be torn.
    named = report.targets if report is not None else ()
    wanted = [result for result in named if is_settled(result.status, result.verification) and result.key]
    wanted = [result for result in wanted if keys.get(result.variant) == result.key]
    if not wanted:
        return {}

    def look(result: TargetResult) -> Found | None:
        known = [one for one in places.get(result.key, ()) if one.variant == result.variant]
        return shelf.attempt(result.variant, shelf.ref, lambda: _standing(shelf, result, known, sizes))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(wanted, pool.map(look, wanted), strict=True)
        return {result.variant: one for result, one in found if one is not None}


def _standing(
    shelf: Shelf, result: TargetResult, known: Collection[KnownExport], sizes: Mapping[str, int | None]
) -> Found:
    """Check an export where it stands.

    Where the report says what a worker on this ledger wrote for this version, the size of its files is compared: no
    byte of them goes anywhere now, and whoever loads them checks the digests. Else every byte is fetched and looked at;
    what is whole is kept where it is. What the ledger knows of another version is as good then: a copy shares the
    folder. Of the rest no other version takes it over, and with a key it has to be signed: whatever else would fit
    could be anybody's.
    """
    folder = f"{EXPORTS_FOLDER}/{result.variant}/"
    files = {path.removeprefix(folder): size for path, size in sizes.items() if path.startswith(folder)}
    if MANIFEST not in files or "MLmodel" not in files:
        raise ArtifactError("it is gone.")
    digest = result_digest(result)
    told = {one.model_version: one.manifest_sha256 for one in known if one.result_sha256 == digest}
    manifest_sha256 = told.get(shelf.ref)
    stored = [size for name, size in files.items() if name not in OWN_FILES and size is not None]
    if manifest_sha256 is not None and sum(stored) == result.size_bytes:
        return Found(
            replace(result, reused=True), manifest_sha256, signed=_signed(shelf, result, manifest_sha256, files)
        )
    fetched, manifest = fetch(shelf.registry, shelf.ref, result, shelf.work / "fetched")
    _verified(manifest, result.key)
    if shelf.signer is not None:
        shelf.signer.verifier.check(fetched, manifest)
    manifest_sha256 = sha256_of(fetched / MANIFEST)
    return Found(replace(result, reused=True), manifest_sha256 if manifest_sha256 in told.values() else "")


def _signed(shelf: Shelf, result: TargetResult, manifest_sha256: str, files: Mapping[str, int | None]) -> Path | None:
    if shelf.signer is None:
        return None
    work = shelf.work / "signed"
    return sign_in_place(shelf.signer, shelf.registry, shelf.ref, result.variant, manifest_sha256, [*files], work)


def _verified(manifest: Manifest, key: str) -> Manifest:
    if not is_settled(manifest.status, manifest.verification) or manifest.key != key:
        raise ArtifactError(f"its {MANIFEST} speaks of another export.")
    return manifest


def _taken_over(shelf: Shelf, keys: Mapping[str, str], places: Places) -> dict[str, Found]:
    """Fetch exports that were made for other versions."""

    def look(variant: str) -> Found | None:
        known_here = (known for known in places.get(keys[variant], ()) if known.variant == variant)
        others = [known for known in known_here if known.model_version != shelf.ref]
        for known in others[:_MOST_PLACES]:
            try:
                found = shelf.attempt(known.variant, known.model_version, partial(_fetched, shelf, known))
            except (ArtifactError, RegistryError) as error:
                # Another version's files that cannot be reached are no reason to wait with this one's.
                shelf.reporter.note(f"{variant} of {known.model_version} cannot be fetched: {error}")
                continue
            if found is not None:
                return found
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = zip(keys, pool.map(look, keys), strict=True)
        return {variant: one for variant, one in found if one is not None}


def _fetched(shelf: Shelf, known: KnownExport) -> Found:
    """Fetch one export of another version, and check every byte of it."""
    place = shelf.work / "taken" / f"{known.model_version.version}-{known.manifest_sha256[:16]}"
    folder = shelf.registry.download_artifact(known.model_version, f"{EXPORTS_FOLDER}/{known.variant}", place)
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink() or sha256_of(path) != known.manifest_sha256:
        raise ArtifactError(f"its {MANIFEST} is not the one that was published.")
    manifest = _verified(verify_files(folder), known.key)
    drop_strangers(folder, manifest)
    made_for = manifest.taken_from or known.model_version
    result = replace(result_of(manifest), taken_from=None if made_for == shelf.ref else made_for)
    return Found(result, known.manifest_sha256, manifest.source, folder)
