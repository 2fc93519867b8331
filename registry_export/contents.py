"""Look into a version's checkpoint, one of its exports, or a file of one's own; reading it is a child's work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from registry_export.checkpoint import read_checkpoint
from registry_export.discovery import install_command, missing_requirements
from registry_export.entities import Contents, Interface
from registry_export.errors import ConfigurationError, MissingPackageError, SourceError
from registry_export.exports import fetch, result_named, variant_named
from registry_export.format import Format
from registry_export.inference import Origin
from registry_export.inspection import Inspected, InspectRequest
from registry_export.manifest import MANIFEST, verify_files
from registry_export.page import read_report
from registry_export.pools import Children
from registry_export.registry import Registry
from registry_export.scratch import Scratch

_INSPECT = "registry_export.inspection:inspect"
_MODELS = "models:/"


@dataclass(frozen=True)
class Subject:
    """A model to be looked into.

    Attributes:
        name: What it is called: `digits/3`, `digits/3#onnx`, or a path.
        origin: Its format, and where its file lies.
    """

    name: str
    origin: Origin


def split(text: str, target: str) -> tuple[str, str]:
    """Take the target off a model URI that names one (`models:/digits/3#onnx`).

    Args:
        text: The model URI, or a path.
        target: The target that goes for all; empty: none does.

    Raises:
        ConfigurationError: Both name a target.
    """
    if not text.startswith(_MODELS) or "#" not in text.rpartition("/")[2]:
        return text, target
    uri, _, own = text.rpartition("#")
    if target and own != target:
        raise ConfigurationError(f"{text} names a target, and so does --target {target}; name one of them.")
    return uri, own


def local_subject(text: str, format_name: str, formats: Mapping[str, Format]) -> Subject:
    """Find the model in a file or folder.

    Args:
        text: Its path: a file, a model folder, an export's folder with its manifest.
        format_name: Which format it is; empty: that is found out.
        formats: All that are installed, by name.

    Raises:
        ConfigurationError: There is no such file, or its format cannot be told.
        ArtifactError: It is an export that is torn.
        SourceError: No format recognises the folder.
    """
    path = Path(text).absolute()
    if not path.exists():
        raise ConfigurationError(f"There is no file {text}, and it is no model URI such as models:/name/3.")
    if not format_name and (path / MANIFEST).is_file():
        manifest = verify_files(path)
        interface = Interface(manifest.inputs, manifest.outputs)
        return Subject(text, Origin(manifest.format, str(path / manifest.filename), interface))
    name = format_name or _recognised(path, formats)
    if name:
        return Subject(text, Origin(name, str(path), Interface(())))
    return Subject(text, read_checkpoint(path, formats).origin)


def _recognised(path: Path, formats: Mapping[str, Format]) -> str:
    """Name the format of a file, or of a folder that is one deployable; empty for a folder of a model.

    Raises:
        ConfigurationError: No format knows such a file, or several do.
    """
    suffixed = [f.name for f in formats.values() if f.conversions and path.suffix == Path(f.filename).suffix != ""]
    only_made = [name for name in suffixed if not formats[name].kind]
    if path.is_dir():
        folders = [name for name in suffixed if _is_folder(path, formats[name])]
        return folders[0] if len(folders) == 1 else ""
    located = [f.name for f in formats.values() if f.kind and _locates(f, path)]
    found = only_made or located or suffixed
    if len(found) == 1:
        return found[0]
    choices = ", ".join(found or [f.name for f in formats.values()])
    raise ConfigurationError(f"Which format is {path.name}?", remedy=f"Say it with --format; the choices: {choices}.")


def _is_folder(path: Path, format_: Format) -> bool:
    return not format_.kind or format_.locate(path, {}) == path


def _locates(format_: Format, path: Path) -> bool:
    try:
        return format_.locate(path.parent, {}) == path
    except (SourceError, OSError, ValueError):
        return False


def stored_subject(uri: str, target: str, registry: Registry, formats: Mapping[str, Format], work: Path) -> Subject:
    """Fetch a version's checkpoint, or one of its exports whatever its verdict, digests checked.

    Args:
        uri: As for `exports.pull`.
        target: A target or a variant; empty: the checkpoint.
        registry: Holds the version.
        formats: All that are installed, by name.
        work: Folder to put it in.

    Raises:
        ModelVersionNotFoundError: There is no such version.
        ArtifactError: It has no such export, or that is torn.
        SourceError: No format recognises the checkpoint.
    """
    ref = registry.resolve(uri)
    if not target:
        return Subject(str(ref), read_checkpoint(registry.download(ref, work), formats).origin)
    variant = variant_named(target, formats)
    folder, manifest = fetch(registry, ref, result_named(ref, variant, read_report(registry, ref)), work)
    interface = Interface(manifest.inputs, manifest.outputs)
    return Subject(f"{ref}#{variant}", Origin(manifest.format, str(folder / manifest.filename), interface))


def contents_of(subject: Subject, formats: Mapping[str, Format], pool: Children) -> Contents:
    """Read what a model holds, in a child.

    Raises:
        MissingPackageError: What reads its format is not installed.
        RegistryExportError: It cannot be read.
    """
    return _inspected(subject, formats, pool, InspectRequest(subject.origin)).contents


def contents_of_two(
    one: Subject, other: Subject, formats: Mapping[str, Format], pool: Children
) -> tuple[Contents, Contents, Mapping[str, float | None]]:
    """Read what two models hold, and how far the tensors of one name and shape are apart.

    Returns:
        The contents of both, and the largest absolute difference by name, as in `Inspected`.
    """
    with Scratch() as kept:
        first = _inspected(one, formats, pool, InspectRequest(one.origin, keep=str(kept)), writes=(kept,))
        request = InspectRequest(other.origin, beside=str(kept) if first.contents.tensors is not None else "")
        second = _inspected(other, formats, pool, request, reads=(kept,))
    return first.contents, second.contents, second.differences


def _inspected(
    subject: Subject,
    formats: Mapping[str, Format],
    pool: Children,
    request: InspectRequest,
    reads: tuple[Path, ...] = (),
    writes: tuple[Path, ...] = (),
) -> Inspected:
    format_ = formats.get(subject.origin.format)
    if format_ is None:
        raise ConfigurationError(f"The format {subject.origin.format} of {subject.name} is not installed.")
    missing = missing_requirements(format_.requirements)
    if missing:
        command = install_command(format_)
        raise MissingPackageError(
            f"Looking into {subject.name} needs packages that are not installed: {', '.join(missing)}.",
            remedy=f"Run `{command}`." if command else "",
        )
    # A toolchain with an environment of its own runs models; files are read without it.
    toolchain = format_.toolchain.fallback or format_.toolchain
    with Scratch() as work:
        outcome = pool.call(
            toolchain,
            _INSPECT,
            msgspec.to_builtins(request),
            work,
            reads=(*subject.origin.reads, *reads),
            writes=writes,
        )
        return outcome.of(Inspected)
