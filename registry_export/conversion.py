"""Run a plan's steps, each in an isolated child, and check what a plugin promised.

A step is run once, whoever asks for it first; a failed step fails only the routes through it.
"""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from registry_export.compatibility import needs_of
from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Description, Dimension, Interface, OptionValue, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, SourceError
from registry_export.format import ConversionRequest, ConversionResult, Format, dimensions_of
from registry_export.graph import ExportPlan, Step
from registry_export.inference import Origin, one_line
from registry_export.inspection import outline
from registry_export.pools import Children
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


@dataclass(frozen=True)
class StepResult:
    """A step that worked.

    Attributes:
        step: What was run.
        folder: The artifact's folder, which holds the model files and nothing else.
        origin: How the artifact is loaded by a later step or by its verification.
        description: What the format read back from the files.
        result: The conversion's own account.
        seconds: Wall time of the step.
        warnings: What the converter warned of.
    """

    step: Step
    folder: Path
    origin: Origin
    description: Description
    result: ConversionResult
    seconds: float
    warnings: tuple[str, ...]


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
    if sum(size for _, size, _ in _fingerprint(Path(request.origin.path))) > _LARGE:
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


def with_requested(
    interface: Interface, options: Mapping[str, OptionValue], optional: Mapping[str, Mapping[str, int]]
) -> Interface:
    """Fix the dimensions that only other targets asked to be dynamic.

    Args:
        interface: The source's, with every dimension dynamic that any target asked for.
        options: The target's.
        optional: Input -> axis -> size, of the dimensions that are dynamic only on request.
    """
    asked = dimensions_of(options)

    def shape(spec: TensorSpec) -> tuple[Dimension, ...] | None:
        sizes = {
            axis: size for axis, size in optional.get(spec.name, {}).items() if axis not in asked.get(spec.name, {})
        }
        return spec.shape and tuple(sizes.get(str(axis), d) for axis, d in enumerate(spec.shape))

    return replace(interface, inputs=tuple(replace(spec, shape=shape(spec)) for spec in interface.inputs))


def check_requested(interface: Interface, options: Mapping[str, OptionValue], fixed: str = "is fixed") -> None:
    """Check that the dimensions that a target asked for are dynamic.

    Args:
        interface: Of what came out, or of the source.
        options: The target's.
        fixed: What the message says of one that is not.

    Raises:
        ConversionError: One of them is not, or is not there.
    """
    shapes = {spec.name: spec.shape or () for spec in interface.inputs}
    for name, axes in dimensions_of(options).items():
        if name not in shapes:
            raise ConversionError(f"dynamic_dimensions names the input {name}; the inputs are {', '.join(shapes)}.")
        for axis in axes:
            if int(axis) >= len(shapes[name]):
                raise ConversionError(f"dynamic_dimensions names axis {axis} of {name}, which has {len(shapes[name])}.")
            if isinstance(shapes[name][int(axis)], int):
                raise ConversionError(
                    f"Axis {axis} of {name} was to be dynamic, but {fixed} at {shapes[name][int(axis)]}.",
                    remedy="Leave it out of dynamic_dimensions, or mend the model where it fixes the size.",
                )


@dataclass
class PlanRun:
    """A plan being run: what its steps need, and the results so far. Safe to use from several threads."""

    plan: ExportPlan
    formats: Mapping[str, Format]
    children: Callable[[Step], Children]
    source: Origin
    interface: Interface
    samples: str
    folder: Path
    optional: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    calibration: str = ""
    _results: dict[str, Future[StepResult]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def result(self, step_id: str) -> StepResult:
        """Return a step's result, running it, and what it reads from, on first need.

        Raises:
            RegistryExportError: It failed, or the step that it reads from did; the same error each time.
        """
        with self._lock:
            future = self._results.get(step_id)
            mine = future is None
            if future is None:
                future = self._results[step_id] = Future()
        if mine:
            try:
                future.set_result(self._run(self.plan.steps[step_id]))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def failed(self, last: str) -> str:
        """Return the format that the first failed step of a route should have made; empty where none has failed."""
        for step in self.plan.way(last):
            future = self._results.get(step.id)
            if future is not None and future.done() and future.exception() is not None:
                return step.format
        return ""

    def _run(self, step: Step) -> StepResult:
        interface = with_requested(self.interface, step.options, self.optional)
        check_requested(interface, step.options, "is one that the checkpoint itself fixes")
        origin = self.result(step.parent).origin if step.parent else self.source.pruned(step.pruning)
        format_ = self.formats[step.format]
        conversion = format_.conversions[step.conversion]
        number = list(self.plan.steps).index(step.id)
        folder, work = self.folder / f"step-{number}", self.folder / f"work-{number}"
        folder.mkdir()
        work.mkdir()
        output = folder / format_.filename
        request = ConvertRequest(
            origin,
            step.format,
            step.conversion,
            step.options,
            interface,
            self.samples,
            str(output),
            str(work),
            self.calibration,
        )
        before = _fingerprint(Path(origin.path))
        outcome = self.children(step).call(
            conversion.toolchain,
            "registry_export.conversion:convert",
            msgspec.to_builtins(request),
            work,
            reads=(*origin.reads, *(Path(given) for given in (self.samples, self.calibration) if given)),
            writes=(folder,),
        )
        if _fingerprint(Path(origin.path)) != before:
            raise ConversionError("The converter changed its own input.")
        converted = outcome.of(Converted)
        check_requested(converted.description.interface, step.options)
        return StepResult(
            step,
            folder,
            Origin(step.format, str(output), converted.description.interface),
            converted.description,
            converted.result,
            outcome.seconds,
            outcome.warnings,
        )


def _fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of change of a file or of all files in a folder: cheap, and enough to see a write.

    Python caches the author's code beside it when a child imports it; that is no change.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    ours = (file for file in files if file.is_file() and file.parent.name != "__pycache__")
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in ours)
