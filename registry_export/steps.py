"""Run a plan's steps, each in an isolated child, and see that a target has the dimensions that it asked for.

A step is run once, whoever asks for it first; a failed step fails only the routes through it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from registry_export.conversion import Converted, ConvertRequest, fingerprint
from registry_export.entities import Description, Dimension, Interface, OptionValue, TensorSpec
from registry_export.errors import ConversionError
from registry_export.format import ConversionResult, Format, dimensions_of
from registry_export.graph import ExportPlan, Step
from registry_export.inference import Origin
from registry_export.pools import Children


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
        before = fingerprint(Path(origin.path))
        outcome = self.children(step).call(
            conversion.toolchain,
            "registry_export.conversion:convert",
            msgspec.to_builtins(request),
            work,
            reads=(*origin.reads, *(Path(given) for given in (self.samples, self.calibration) if given)),
            writes=(folder,),
        )
        if fingerprint(Path(origin.path)) != before:
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
