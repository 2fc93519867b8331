"""Run in a child: load what a step starts from, convert it, describe the file, and check what a plugin promised."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from registry_export.compatibility import needs_of
from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Description, Dimension, Interface, OptionValue, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, SourceError
from registry_export.format import ConversionRequest, ConversionResult, Format
from registry_export.inference import Origin, one_line
from registry_export.inspection import outline
from registry_export.tensors import read_tensors

_RUNS_ON = "runs on"
_LARGE = 256 << 20
"""Bytes of a source from which a second copy of its weights in memory is worth a search for garbage."""


@dataclass(frozen=True)
class ConvertRequest:
    """What the converting child is given: a step, resolved to paths."""

    origin: Origin
    format: str
    conversion: int
    options: Mapping[str, OptionValue]
    interface: Interface
    samples: str
    output: str
    work: str
    calibration: str = ""


@dataclass(frozen=True)
class Converted:
    """What the converting child answers."""

    result: ConversionResult
    description: Description


def convert(arguments: Any) -> Converted:
    """Load what a step starts from, convert it, and describe the file. Runs in a child.

    Raises:
        SourceError: The input cannot be loaded.
        ConversionError: The converter refused, or its output is not there or cannot be read back.
    """
    request = msgspec.convert(arguments, ConvertRequest)
    request.origin.enter()
    formats = discover_formats()
    format_ = format_named(formats, request.format)
    output = Path(request.output)
    result = _converted(format_, format_named(formats, request.origin.format), output, request)
    if not output.exists():
        raise ConversionError(f"The converter reported success, but wrote no {output.name}.")
    if sum(size for _, size, _ in fingerprint(Path(request.origin.path))) > _LARGE:
        gc.collect()  # the source's weights lie in cycles, and what follows may load the export's own beside them
    return Converted(result, _described(format_, output, request))


def _converted(format_: Format, source: Format, output: Path, request: ConvertRequest) -> ConversionResult:
    """Load the source and convert it; once this returns, nothing refers to the source any more."""
    model = _load(source, request.origin)
    samples = read_tensors(Path(request.samples))
    work = Path(request.work, "scratch")
    work.mkdir(exist_ok=True)
    calibration = read_tensors(Path(request.calibration)) if request.calibration else {}
    asked = ConversionRequest(request.options, request.interface, samples, work, calibration)
    try:
        return format_.conversions[request.conversion].function(model, output, asked)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise ConversionError(one_line(error, 600)) from error


def _load(format_: Format, origin: Origin) -> Any:
    try:
        return origin.load(format_)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise SourceError(f"The {format_.name} model cannot be loaded: {one_line(error)}") from error


def _described(format_: Format, output: Path, request: ConvertRequest) -> Description:
    try:
        description = format_.describe(output)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise ConversionError(f"The converter's output cannot be read back: {one_line(error)}") from error
    kind = format_.conversions[request.conversion].kind
    runs_on = "; ".join(need.text for need in needs_of(format_, request.options, kind, description))
    return replace(
        description,
        interface=merged(description.interface, request.interface),
        details={**description.details, **({_RUNS_ON: runs_on} if runs_on else {})},
        outline=outline(format_, output),
    )


def merged(described: Interface, wanted: Interface) -> Interface:
    """Put what a file says of its tensors under the source's names and in the source's order.

    Some formats rename tensors or sort them; their runners map the names back. What a file does not say
    (TorchScript knows no shapes) is taken from what was asked for.
    """
    return Interface(
        tuple(_merged_specs(described.inputs, wanted.inputs)), tuple(_merged_specs(described.outputs, wanted.outputs))
    )


def _merged_specs(described: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...]) -> Iterator[TensorSpec]:
    by_name = {spec.name: spec for spec in described}
    if len(described) == len(wanted) and set(by_name) != {spec.name for spec in wanted}:
        # A file may sort what it renames: positions say something only where the words say nothing.
        spelled = {_letters(spec.name): spec for spec in described}
        alike = len(spelled) == len(wanted) and set(spelled) == {_letters(spec.name) for spec in wanted}
        found = [spelled[_letters(spec.name)] for spec in wanted] if alike else described
        by_name = {spec.name: own for spec, own in zip(wanted, found, strict=True)}
    for spec in wanted:
        own = by_name.get(spec.name, spec)
        yield TensorSpec(spec.name, own.dtype or spec.dtype, _merged_shape(own.shape, spec.shape))


def _letters(name: str) -> str:
    """Return what formats leave of a name that they cannot write as it is: letters and digits."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def _merged_shape(
    own: tuple[Dimension, ...] | None, wanted: tuple[Dimension, ...] | None
) -> tuple[Dimension, ...] | None:
    if own is None or wanted is None or len(own) != len(wanted):
        return wanted if own is None else own
    return tuple(w if isinstance(o, str) and isinstance(w, str) else o for o, w in zip(own, wanted, strict=True))


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of change of a file or of all files in a folder: cheap, and enough to see a write.

    Python caches the author's code beside it when a child imports it; that is no change.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    ours = (file for file in files if file.is_file() and file.parent.name != "__pycache__")
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in ours)
