"""The way back: find a published export, check its digests, hand it out or open it."""

from __future__ import annotations

import contextlib
import difflib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ExportReport, ModelVersionRef, Status, TargetResult
from registry_export.errors import ArtifactError, ConfigurationError, ModelVersionNotFoundError
from registry_export.format import Format
from registry_export.loaded import LoadedExport
from registry_export.manifest import OWN_FILES, Manifest, Verifier, result_of, verify_files
from registry_export.page import read_report
from registry_export.registry import EXPORTS_FOLDER, Registry
from registry_export.report import is_usable, reason_text
from registry_export.scratch import Scratch, sweep

_TYPING_ERROR = 0.72
"""How alike two names must be for one to be a typing error; `tflite-int8` is none of `tflite`."""

_log = logging.getLogger(__name__)


def pull(
    model_uri: str,
    target: str,
    output: str | Path,
    *,
    registry: Registry | None = None,
    formats: Mapping[str, Format] | None = None,
    verifier: Verifier | None = None,
) -> Path:
    """Fetch a published export into a folder, its digests checked.

    An unverified one is handed out with a warning in the log: nothing has shown that it is wrong.

    Args:
        model_uri: `models:/name/3`, `models:/name@alias` or `models:/name/Staging`.
        target: A target (`onnx:opset_version=17`) or a variant (`onnx-opset17`).
        output: Folder to put it in; made if absent. Nothing is written when the export is not whole.
        registry: The registry; None for the one that the environment names.
        formats: The installed formats; None finds them.
        verifier: The keys of which one must have signed it; None: signatures are not looked at.

    Returns:
        The deployable file or folder in `output`.

    Raises:
        ArtifactError: There is no such export, it is neither verified nor unverified, or it is torn.
        UnsignedError: It is not signed by one of the keys.
        ConfigurationError: The target is not understood, or `output` cannot be used as a folder.
        ModelVersionNotFoundError: There is no such version.
    """
    registry = registry or Registry()
    ref = registry.resolve(model_uri)
    variant = variant_named(target, discover_formats() if formats is None else formats)
    output = Path(output)
    with beside(output) as work:
        folder, manifest = _fetch(registry, ref, variant, work, verifier)
        for path in sorted(folder.iterdir()):
            replace(path, output / path.name)
    return output / manifest.filename


@contextlib.contextmanager
def beside(output: Path) -> Iterator[Path]:
    """Make a temporary folder inside the output, so that the last step is a rename and not another copy.

    Raises:
        ConfigurationError: The output cannot be made or written to.
    """
    is_new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        sweep(output)
        scratch = Scratch(output, hidden=True)
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be used as a folder: {error.strerror}.") from error
    try:
        yield scratch.path
    finally:
        scratch.remove()
        if is_new and not any(output.iterdir()):
            output.rmdir()


def load(
    model_uri: str,
    target: str,
    *,
    registry: Registry | None = None,
    formats: Mapping[str, Format] | None = None,
    verifier: Verifier | None = None,
) -> LoadedExport:
    """Open a published export for inference, its digests checked.

    Args:
        model_uri: As for `pull`.
        target: As for `pull`.
        registry: As for `pull`.
        formats: As for `pull`.
        verifier: As for `pull`.

    Returns:
        A runner, usable at once; its temporary files go when it is closed, or with the process.

    Raises:
        ArtifactError: As for `pull`.
        RuntimeAbsentError: Its runtime is not available on this machine.
    """
    registry = registry or Registry()
    ref = registry.resolve(model_uri)
    variant = variant_named(target, discover_formats() if formats is None else formats)
    scratch = Scratch()
    try:
        folder, _ = _fetch(registry, ref, variant, scratch.path, verifier)
        loaded = LoadedExport(folder)
    except BaseException:
        scratch.remove()
        raise
    loaded.call_when_closed(scratch.remove)
    return loaded


def variant_named(target: str, formats: Mapping[str, Format]) -> str:
    """Name the variant that a target means; what is no target may be a variant itself."""
    try:
        targets = parse_targets(target, "target", formats)
    except ConfigurationError:
        if ":" in target or "," in target:
            raise
        return target.strip()
    if len(targets) != 1:
        raise ConfigurationError(f"{target!r} names {len(targets)} targets; one can be fetched at a time.")
    return targets[0].variant


def _fetch(
    registry: Registry, ref: ModelVersionRef, variant: str, work: Path, verifier: Verifier | None
) -> tuple[Path, Manifest]:
    """Download a variant's folder and check it against its manifest, the version's report, and who must have signed."""
    result = published(registry, ref, variant)
    folder, manifest = fetch(registry, ref, result, work)
    if verifier is not None:
        verifier.check(folder, manifest)
        _check_place(registry, ref, manifest)
        result = result_of(manifest)  # the report is not signed
        _check_usable(ref, result)
    if result.status is not Status.VERIFIED:
        _log.warning("%s of %s is %s: %s", variant, ref, result.status, reason_text(result))
    return folder, manifest


def fetch(registry: Registry, ref: ModelVersionRef, result: TargetResult, work: Path) -> tuple[Path, Manifest]:
    """Download a variant's folder, whatever its status, and check it against its manifest and the report.

    Args:
        registry: The registry.
        ref: The version.
        result: What its report says of the variant.
        work: A folder to download to.

    Returns:
        The folder as `load` opens it, and its manifest.

    Raises:
        ArtifactError: It is gone, or not whole; names the file.
    """
    folder = registry.download_artifact(ref, f"{EXPORTS_FOLDER}/{result.variant}", work)
    manifest = verify_files(folder)
    if manifest.variant != result.variant or manifest.sha256 != result.sha256:
        raise ArtifactError(
            f"{result.variant} of {ref} is not what report.json speaks of: its files are of another export.",
            remedy="An export may be under way; try again, or export it again.",
        )
    drop_strangers(folder, manifest)
    return folder, manifest


def variants_named(text: str, formats: Mapping[str, Format]) -> tuple[str, ...]:
    """Name the variants that a list of targets or variants means (`onnx, tflite:precision=int8, tflite-fp16`)."""
    try:
        return tuple(target.variant for target in parse_targets(text, "target", formats))
    except ConfigurationError:
        return tuple(dict.fromkeys(variant_named(part, formats) for part in text.split(",") if part.strip()))


def result_named(ref: ModelVersionRef, variant: str, report: ExportReport | None) -> TargetResult:
    """Return what a version's report says of a variant, whatever its status.

    Raises:
        ArtifactError: The version has no such export.
    """
    results = {result.variant: result for result in report.targets} if report is not None else {}
    result = results.get(variant)
    if result is None:
        has = ", ".join(r.variant if is_usable(r) else f"{r.variant} ({r.status})" for r in results.values()) or "none"
        (meant,) = difflib.get_close_matches(variant, results, 1, _TYPING_ERROR) or [""]
        raise ArtifactError(
            f"{ref} has no export {variant!r}{f'; did you mean {meant!r}?' if meant else ''} (it has: {has}).",
            remedy=f"Run `registry-export export {ref.uri} --target ...`.",
        )
    return result


def published(registry: Registry, ref: ModelVersionRef, variant: str) -> TargetResult:
    """Return what the version's report says of a variant that is handed out.

    Raises:
        ArtifactError: There is no such export, or it is neither verified nor unverified.
    """
    result = result_named(ref, variant, read_report(registry, ref))
    _check_usable(ref, result)
    return result


def _check_usable(ref: ModelVersionRef, result: TargetResult) -> None:
    if not is_usable(result):
        said = f"{result.variant} of {ref} is not handed out: {result.status}. {reason_text(result)}"
        raise ArtifactError(said.rstrip())


def _check_place(registry: Registry, ref: ModelVersionRef, manifest: Manifest) -> None:
    """Refuse what was signed for another version, unless the registry says that both share one folder of files."""
    signed_for = manifest.model_version
    if signed_for == ref:
        return
    try:
        shared = registry.location(signed_for) == registry.location(ref)
    except ModelVersionNotFoundError:
        shared = False
    if not shared:
        raise ArtifactError(
            f"{manifest.variant} of {ref} was signed as an export of {signed_for}.",
            remedy=f"Run `registry-export export {ref.uri} --target {manifest.variant} --force` where the key is.",
        )


def drop_strangers(folder: Path, manifest: Manifest) -> None:
    """Remove files that the manifest does not name: left in the store by an earlier export, or put there."""
    known = {record.path for record in manifest.files} | OWN_FILES
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) and path.name != manifest.filename:
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in known:
            path.unlink()


def replace(source: Path, destination: Path) -> None:
    """Put a file or a folder where another one may be."""
    if destination.is_dir() and not destination.is_symlink():
        shutil.rmtree(destination)
    elif source.is_dir():
        destination.unlink(missing_ok=True)  # a folder replaces no file and no link by itself
    source.replace(destination)
