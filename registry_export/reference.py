"""Run the source, inside a child, for its own answers: once for all targets.

Takes and returns plain data; arrays stay in the work folder, written by `tensors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from registry_export.budget import Budget
from registry_export.climb import beyond, climb
from registry_export.dimensions import (
    BATCH,
    assumed_batch,
    groups,
    only_requested,
    output_specs,
    renamed,
    requested,
    sums,
    tied,
    with_dynamic,
)
from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Interface, NoiseFloor
from registry_export.errors import RegistryExportError, SamplesError, SourceError, VerificationError
from registry_export.format import Format, Runner
from registry_export.inference import DRAWN, EDGE, Origin, RungFiles, first_run, one_line, one_sided
from registry_export.noise import Measured, carried, disagreement, measure, unfit
from registry_export.samples import WHAT_TO_LOG, Array, bind, draw
from registry_export.tensors import read_tensors, write_tensors
from registry_export.variations import Variation

_SLOW = 0.5


@dataclass(frozen=True)
class ReferenceRequest:
    """What the reference run is given.

    Attributes:
        origin: The source.
        folder: Where the rungs are written.
        sample: Folder with the rule's samples or the input example; empty: draw from the signature.
        evidence: `samples` or `example`; `random` where `sample` is empty.
        dynamic: Dimensions asked for by the targets: input -> axis -> name.
    """

    origin: Origin
    folder: str
    sample: str = ""
    evidence: str = "random"
    dynamic: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The source's own answers, once for all targets.

    Attributes:
        interface: The source's inputs and outputs, with names and dynamic dimensions as they really are.
        rungs: Inputs and outputs; the first is the example.
        trace: Folder of the inputs to trace with: every dynamic dimension has size 2 or more.
        evidence: Where the inputs came from.
        optional: Input -> axis -> size, of dimensions that are dynamic only because a target asked for it.
        calibration: Folder of the samples or the example, all rows; empty where the inputs are random.
        unstable: Why the source's outputs cannot be relied on; empty when they can.
        noisy: Why a precision's default tolerance means nothing for it; empty when it does.
        noise: How far its answers are from its own, computed another way.
        stand_in: Why something else answered in the source's place; empty when it answered itself.
        notes: Sentences about the source that the report shows.
        runtime: What ran it.
        origin: What was run; None: unknown.
        sandbox: The walls that stood around it.
        sparsity: The share of its parameters that are zero, where it was pruned.
    """

    interface: Interface
    rungs: tuple[RungFiles, ...]
    trace: str
    evidence: str
    optional: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    calibration: str = ""
    unstable: str = ""
    noisy: str = ""
    noise: NoiseFloor = field(default_factory=NoiseFloor)
    stand_in: str = ""
    notes: tuple[str, ...] = ()
    runtime: str = ""
    origin: Origin | None = None
    sandbox: str = ""
    sparsity: float | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything on disk that it speaks of."""
        folders = [folder for rung in self.rungs for folder in (rung.inputs, rung.expected)]
        return (*folders, self.trace, self.calibration)


def reference(arguments: Any) -> Reference:
    """Run the source on its samples and their variations.

    Raises:
        SourceError: It cannot be loaded, or fails on its samples.
        SamplesError: There is nothing to run it on, or the samples do not fit.
    """
    request = msgspec.convert(arguments, ReferenceRequest)
    origin = request.origin
    origin.enter()
    format_ = format_named(discover_formats(), origin.format)
    declared = origin.interface
    with _Opened(format_, origin) as runner:
        base, evidence = base_inputs(runner, request.sample, request.evidence)
        began = time.monotonic()
        given = base
        base, expected, precision = first_run(runner, base, evidence)
        seconds = _seconds(runner, base, time.monotonic() - began)
        natural = [runner.interface, renamed(declared, runner.interface)]
        dimensions = groups(base, [requested(request.dynamic), *natural])
        if not any(group.name == BATCH for group in dimensions):
            dimensions = (*assumed_batch(base, declared), *dimensions)
        together = sums(runner.interface)
        budget = Budget(base, seconds)
        runs, kept, notes = climb(runner, base, expected, dimensions, together, budget)
        fewer = tied(dimensions, {group.name for group in dimensions} - {group.name for group in kept})
        if fewer != dimensions:
            budget = Budget(base, seconds)
            runs, kept, notes = climb(runner, base, expected, fewer, together, budget)
        interface = replace(
            with_dynamic(runner.interface, kept, base),
            outputs=output_specs([(v.inputs, outputs) for v, outputs in runs], kept, together),
        )
        runs += beyond(runner, base, expected, next((group for group in kept if group.name == BATCH), None), budget)
        measured = measure(runner, runs, interface)
        rungs = _written(Path(request.folder), runs, measured)
        steps = tuple(_steps(Path(request.folder), runner, base))
        return Reference(
            interface=interface,
            rungs=(*rungs, *steps),
            trace=_traceable(rungs, interface),
            evidence=evidence,
            optional=only_requested(kept, groups(base, natural)),
            calibration="" if evidence == "random" else _all_rows(Path(request.folder), given, base, rungs[0].inputs),
            unstable=disagreement(runner, base, expected),
            noisy=measured.unstable,
            noise=measured.floor,
            stand_in=getattr(runner, "stand_in", ""),
            notes=(
                *getattr(runner, "notes", ()),
                *precision,
                *notes,
                *budget.notes,
                *measured.notes,
                *one_sided(runner),
                *_assumed_integers(base, evidence, natural),
            ),
            runtime=runner.runtime,
            sparsity=getattr(runner, "sparsity", None),
        )


def _assumed_integers(base: Mapping[str, Array], evidence: str, interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """Say which whole numbers nothing gives a width: MLflow's example is JSON, where a byte looks like an int64."""
    declared = {spec.name for interface in interfaces for spec in interface.inputs if spec.dtype}
    names = [n for n, array in base.items() if array.dtype.name == "int64" and n not in declared]
    if evidence != "example" or not names:
        return ()
    advice = "Where it is another, log the model with a signature= that says so."
    return (f"Nothing says which integers {', '.join(names)} holds; int64 was taken. {advice}",)


class _Opened:
    """A runner's context whose loading errors are named as the checkpoint's."""

    def __init__(self, format_: Format, origin: Origin) -> None:
        self._format, self._origin = format_, origin

    def __enter__(self) -> Runner:
        try:
            self._context = self._origin.open(self._format)
            return self._context.__enter__()
        except VerificationError as error:  # a runner of exports says so, and nothing is exported yet
            raise SourceError(error.message, remedy=error.remedy) from error
        except (RegistryExportError, MemoryError):
            raise
        except Exception as error:
            raise SourceError(
                f"The checkpoint cannot be loaded: {one_line(error).rstrip('.')}.",
                remedy="Check that `mlflow.pyfunc.load_model` loads it in this environment.",
            ) from error

    def __exit__(self, *exception: Any) -> None:
        self._context.__exit__(*exception)


def base_inputs(runner: Runner, sample: str, evidence: str) -> tuple[dict[str, Array], str]:
    """Choose the first inputs of a source: those that were given, those that it recommends, or random ones.

    Args:
        runner: The source.
        sample: Folder of those that were given; empty: none were.
        evidence: What these are: `samples` or `example`.

    Returns:
        Arrays by the source's names, and what they are: `samples`, `example` or `random`.

    Raises:
        SamplesError: There are none, or they do not fit.
    """
    inputs = runner.interface.inputs
    recommended: Mapping[str, Array] | None = getattr(runner, "example", None)
    inside = recommended and evidence == "example" and getattr(runner, "inside", False)
    if sample and not inside:
        given: Sequence[tuple[str, Array]] = list(read_tensors(Path(sample)).items())
        complete: Callable[[Sequence[tuple[str, Array]]], dict[str, Array]] | None = getattr(runner, "complete", None)
        return bind(list(complete(given).items()) if complete else given, inputs), evidence
    if recommended:
        return bind(list(recommended.items()), inputs), "example"
    if any(spec.shape is None or not spec.dtype for spec in inputs) or not inputs:
        raise SamplesError("The version has no signature and no input example.", remedy=WHAT_TO_LOG)
    return draw(inputs), "random"


def _all_rows(folder: Path, given: Mapping[str, Array], base: Mapping[str, Array], inputs: str) -> str:
    """Return the folder of all rows that were given: more than the example's, of a source that fixes its batch."""
    if all(given[name].shape == array.shape for name, array in base.items()):
        return inputs
    rows = folder / "rows"
    write_tensors(rows, {name: array.astype(base[name].dtype, copy=False) for name, array in given.items()})
    return str(rows)


def _seconds(runner: Runner, base: Mapping[str, Array], first: float) -> float:
    """Time a run; the first one that is slow is timed again, because it may have read the weights from the disk."""
    if first < _SLOW:
        return first
    began = time.monotonic()
    runner.infer(base)
    return min(first, time.monotonic() - began)


def _written(
    folder: Path, runs: Sequence[tuple[Variation, dict[str, Array]]], measured: Measured
) -> tuple[RungFiles, ...]:
    rungs = []
    for position, run in enumerate(runs):
        variation, outputs = run
        inputs, expected = folder / f"{position}-inputs", folder / f"{position}-expected"
        write_tensors(inputs, variation.inputs)
        write_tensors(expected, outputs)
        rungs.append(
            RungFiles(
                variation.name,
                variation.group,
                str(inputs),
                str(expected),
                kind=variation.kind,
                noise=carried(measured, run),
                unfit=unfit(measured, run),
            )
        )
    return tuple(rungs)


def _steps(folder: Path, runner: Runner, base: Mapping[str, Array]) -> Iterator[RungFiles]:
    """Write the steps of a model that is fed its own answers, one rung each; none for any other model."""
    steps: Callable[[Mapping[str, Array]], Iterator[dict[str, Array]]] | None = getattr(runner, "steps", None)
    feeds: Mapping[str, str] = getattr(runner, "feeds", {})
    for number, inputs in enumerate(steps(base) if steps is not None else (), 1):
        given, expected = folder / f"step{number}-inputs", folder / f"step{number}-expected"
        write_tensors(given, inputs)
        write_tensors(expected, runner.infer(inputs))
        yield RungFiles(f"step {number}", "", str(given), str(expected), kind="step", feeds=feeds if number > 1 else {})


def _traceable(rungs: Sequence[RungFiles], interface: Interface) -> str:
    """Choose inputs whose dynamic dimensions are all 2 or more: exporters specialise on 0 and 1."""

    def score(rung: RungFiles) -> int:
        inputs = read_tensors(Path(rung.inputs))
        return sum(
            inputs[spec.name].shape[axis] < 2
            for spec in interface.inputs
            for axis, dimension in enumerate(spec.shape or ())
            if isinstance(dimension, str)
        )

    return min((rung for rung in rungs if rung.kind not in (EDGE, DRAWN)), key=score).inputs
