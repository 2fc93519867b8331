"""The source of an export: a downloaded model, recognised by one of the formats."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry_export.discovery import install_command, missing_requirements
from registry_export.entities import FileRecord, Interface, SourceRecord, TensorSpec
from registry_export.errors import MissingPackageError, SourceError, UnsupportedSourceError
from registry_export.format import Format
from registry_export.inference import Origin, heeded
from registry_export.manifest import combined_digest, file_records
from registry_export.model_setup import MODEL_FACTORY, NO_SETUP, WRAPPER, ModelSetup, code_files
from registry_export.registry import ModelFiles, read_model
from registry_export.report import size_text
from registry_export.tensors import write_tensors

_FORMATS_ARE_LISTED = "`registry-export formats` lists the formats that can be read."
_MOST_NAMES = 5


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: what recognised it, where its checkpoint lies, what its MLmodel says.

    Attributes:
        format: The format that recognised it.
        path: The checkpoint's file or folder.
        files: The MLmodel's account: flavors, signature, input example, code.
        record: The same for the report.
        content_sha256: Digest of what steps read of it: as `record.sha256`, but for where and when it was logged. The
            same model that is logged twice has the same.
        setup: What a rule says of how it is loaded.
        folder: The whole model's: parts of one may lie apart from its checkpoint (a tokenizer, say).
    """

    format: Format
    path: Path
    files: ModelFiles
    record: SourceRecord
    content_sha256: str
    setup: ModelSetup = NO_SETUP
    folder: Path | None = None

    @property
    def origin(self) -> Origin:
        """How a child loads it."""
        return Origin(
            format=self.format.name,
            path=str(self.path),
            interface=self.files.interface or _interface_of_example(self.files),
            code_paths=tuple(str(path) for path in self.files.code_paths),
            setup=self.setup,
            folder=str(self.folder or ""),
        )

    def code_digest(self, named: Iterable[str] = ()) -> str:
        """Digest the code that an export runs besides the checkpoint's own; empty where there is none.

        Args:
            named: What the target's options name, besides the rule's factory and wrapper.

        Returns:
            SHA-256, in hex, of the names and of the files behind them.
        """
        names = [name for name in (self.setup.model_factory, self.setup.wrapper, *named) if name]
        if not names:
            return ""
        digest = hashlib.sha256()
        shipped = tuple(map(str, self.files.code_paths))
        search = (*shipped, *filter(None, sys.path), *self.setup.search)  # as `Origin.enter` makes it in the child
        for name in names:
            digest.update(name.encode() + b"\0")
            for path in code_files(name, search, (*shipped, *self.setup.search)):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def write_example(self, folder: Path) -> bool:
        """Write the input example where a child can read it; say whether there is one."""
        example = self.files.example
        if not example:
            return False
        write_tensors(folder, {name or str(position): array for position, (name, array) in enumerate(example)})
        return True


def _interface_of_example(files: ModelFiles) -> Interface:
    """Take names and dtypes from the example where there is no signature: MLflow infers none for several outputs.

    Without it a model with optional arguments would be called with the others alone.
    """
    example = files.example or ()
    return Interface(tuple(TensorSpec(name, array.dtype.name, None) for name, array in example))


def read_checkpoint(folder: Path, formats: Mapping[str, Format], setup: ModelSetup = NO_SETUP) -> Checkpoint:
    """Recognise a downloaded model folder.

    Args:
        folder: The model folder: with its MLmodel file, or plain files that were logged as artifacts.
        formats: Every installed format, by name.
        setup: What a rule says of how it is loaded.

    Raises:
        UnsupportedSourceError: No format recognises it, or the one that does can do nothing with the wrapper.
        MissingPackageError: What loads it is not installed.
        SourceError: Its MLmodel cannot be read.
    """
    files = read_model(folder)
    format_, path, notes = _recognised(folder, files, formats, setup)
    _require_packages(format_)
    records = file_records(folder)
    record = SourceRecord(
        format=format_.name,
        kind=format_.kind,
        flavor=", ".join(name for name in files.flavors if name != "python_function"),
        sha256=combined_digest(records),
        size_bytes=sum(record.size_bytes for record in records),
        checkpoint_bytes=sum(file.stat().st_size for file in _files(path)),
        notes=(*files.notes, *notes, *_setup_notes(format_, setup)),
    )
    return Checkpoint(format_, path, files, record, _content_digest(records, files), setup, folder)


def _content_digest(records: Sequence[FileRecord], files: ModelFiles) -> str:
    if not files.mlmodel_sha256:
        return combined_digest(records)
    said = files.mlmodel_sha256
    return combined_digest([replace(one, sha256=said) if one.path == "MLmodel" else one for one in records])


def _files(path: Path) -> Iterator[Path]:
    return (file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _recognised(
    folder: Path, files: ModelFiles, formats: Mapping[str, Format], setup: ModelSetup
) -> tuple[Format, Path, tuple[str, ...]]:
    """Choose the format and its checkpoint, and say which checkpoints of plain files were left for it.

    What one format refuses (it finds several of its own, say) another may take; among plain files only where the
    taken one's name says that it is meant.
    """
    found: list[tuple[Path, Format]] = []
    refusals: list[SourceError] = []
    for format_ in formats.values():
        try:
            path = _located(format_, folder, files)
        except SourceError as refusal:
            refusals.append(refusal)
        else:
            found += [(path, format_)] if path is not None else []
    if not files.flavors:
        found.sort(key=lambda one: _rank(one[0], one[1], folder, setup))
    if not found or (refusals and not files.flavors and not _is_named(found[0][0], folder)):
        raise refusals[0] if refusals else _unrecognised(folder, files)
    path, format_ = found[0]
    return format_, path, () if files.flavors else tuple(_passed_over(folder, found, refusals))


def _located(format_: Format, folder: Path, files: ModelFiles) -> Path | None:
    """Ask one format for its checkpoint, which must lie in the folder: children may read what is found.

    Raises:
        SourceError: The format refuses it, cannot understand its MLmodel, or is led out of the folder by that.
    """
    try:
        path = format_.locate(folder, files.flavors)
        outside = path is not None and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise SourceError(f"The model's MLmodel file says what {format_.name} cannot understand: {error}.") from error
    if outside:
        raise SourceError(f"The model's MLmodel file leads {format_.name} out of the model's folder.")
    return path


def _rank(path: Path, format_: Format, folder: Path, setup: ModelSetup) -> tuple[bool, bool, bool]:
    """Order plain files: named as the model, all of the folder, with a factory where the rule has one."""
    return not _is_named(path, folder), path != folder, (MODEL_FACTORY in heeded(format_)) != bool(setup.model_factory)


def _is_named(path: Path, folder: Path) -> bool:
    return path != folder and path.name.partition(".")[0] == "model"


def _passed_over(folder: Path, found: Sequence[tuple[Path, Format]], refusals: Sequence[SourceError]) -> Iterator[str]:
    taken = found[0][0]
    others: dict[Path, str] = {}
    for path, format_ in found:
        if path != taken:
            others.setdefault(path, format_.name)
    if others:
        left = ", ".join(f"{_place(path, folder)} ({name})" for path, name in others.items())
        yield f"The checkpoint is {_place(taken, folder)}; not looked at beside it: {left}."
    for message in dict.fromkeys(refusal.message for refusal in refusals):
        yield f"The checkpoint is {_place(taken, folder)}, which its name says. {message}"


def _place(path: Path, folder: Path) -> str:
    return "the whole folder" if path == folder else path.relative_to(folder).as_posix()


def _unrecognised(folder: Path, files: ModelFiles) -> UnsupportedSourceError:
    if files.flavors:
        found = f"the model (its flavors: {', '.join(files.flavors)})."
        return UnsupportedSourceError(f"No installed format recognises {found}", remedy=_FORMATS_ARE_LISTED)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [f"{path.relative_to(folder)} ({size_text(path.stat().st_size)})" for path in paths[:_MOST_NAMES]]
    more = f" and {len(paths) - _MOST_NAMES} more" if len(paths) > _MOST_NAMES else ""
    return UnsupportedSourceError(
        f"No installed format recognises the version's files: {', '.join(names) or 'there are none'}{more}.",
        remedy="Log one checkpoint there, whole and with its usual suffix; where there are several, name the one that "
        f"is meant model, as in model.onnx. {_FORMATS_ARE_LISTED}",
    )


def _require_packages(format_: Format) -> None:
    """Name what a child would stumble over, with the command that installs it."""
    missing = missing_requirements(format_.requirements)
    if missing:
        command = install_command(format_)
        raise MissingPackageError(
            f"A {format_.name} checkpoint needs packages that are not installed: {', '.join(missing)}.",
            remedy=f"Run `{command}`." if command else "",
            step=SourceError.stage,
        )


def _setup_notes(format_: Format, setup: ModelSetup) -> tuple[str, ...]:
    """Refuse a wrapper that would be passed over in silence; a factory that is not needed is only mentioned."""
    if setup.wrapper and WRAPPER not in heeded(format_):
        raise UnsupportedSourceError(
            f"A checkpoint of the format {format_.name} cannot be wrapped ({WRAPPER} {setup.wrapper}).",
            remedy="Wrap the model before it is logged, or take the wrapper out of the rule.",
        )
    if setup.model_factory and MODEL_FACTORY not in heeded(format_):
        return (f"{MODEL_FACTORY} is not needed: a {format_.name} checkpoint holds its own architecture.",)
    return ()
