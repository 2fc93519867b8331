"""The source of an export: a downloaded model, recognised by one of the formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry_export.entities import Interface, SourceRecord, TensorSpec
from registry_export.errors import UnsupportedSourceError
from registry_export.format import Format
from registry_export.inference import Origin
from registry_export.manifest import combined_digest, file_records
from registry_export.registry import ModelFiles, read_model
from registry_export.tensors import write_tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: what recognised it, where its checkpoint lies, what its MLmodel says.

    Attributes:
        format: The format that recognised it.
        path: The checkpoint's file or folder.
        files: The MLmodel's account: flavors, signature, input example, code.
        record: The same for the report.
    """

    format: Format
    path: Path
    files: ModelFiles
    record: SourceRecord

    @property
    def origin(self) -> Origin:
        """How a child loads it."""
        return Origin(
            format=self.format.name,
            path=str(self.path),
            interface=self.files.interface or _interface_of_example(self.files),
            code_paths=tuple(str(path) for path in self.files.code_paths),
        )

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


def read_checkpoint(folder: Path, formats: Mapping[str, Format]) -> Checkpoint:
    """Recognise a downloaded model folder.

    Args:
        folder: The model folder, with its MLmodel file.
        formats: Every installed format, by name.

    Raises:
        UnsupportedSourceError: No format recognises it.
        SourceError: Its MLmodel cannot be read.
    """
    files = read_model(folder)
    for format_ in formats.values():
        path = format_.locate(folder, files.flavors)
        if path is not None:
            records = file_records(folder)
            record = SourceRecord(
                format=format_.name,
                kind=format_.kind,
                flavor=", ".join(name for name in files.flavors if name != "python_function"),
                sha256=combined_digest(records),
                size_bytes=sum(record.size_bytes for record in records),
                notes=files.notes,
            )
            return Checkpoint(format_, path, files, record)
    raise UnsupportedSourceError(
        f"No installed format recognises the model (its flavors: {', '.join(files.flavors) or 'none'}).",
        remedy="`registry-export formats` lists the formats that can be read.",
    )
