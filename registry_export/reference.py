"""Run the source, inside a child, for its own answers: once for all targets.

Takes and returns plain data; arrays stay in the work folder, written by `tensors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.budget import Budget
from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Dimension, Interface, NoiseFloor, TensorSpec
from registry_export.errors import RegistryExportError, SamplesError, SourceError
from registry_export.format import Format, Runner
from registry_export.inference import DRAWN, EDGE, Origin, RungFiles, answered, first_run, one_line, one_sided
from registry_export.ladder import drawn, edges
from registry_export.noise import Measured, carried, measure, unfit
from registry_export.samples import WHAT_TO_LOG, Array, bind, draw
from registry_export.tensors import read_tensors, write_tensors
from registry_export.variations import (
    BATCH,
    Group,
    Sum,
    Variation,
    groups,
    multiples,
    output_specs,
    sums,
    tied,
    variations,
    with_dynamic,
)

_TIMES_RUN = 4
"""How often the source is run on inputs beyond its sample's: plainly, and for the noise floor there."""
_SLOW = 0.5
_SEVERAL = 2
"""Rows from which a batch of 1 is told apart."""


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
        base, expected, precision = first_run(runner, base, evidence)
        seconds = _seconds(runner, base, time.monotonic() - began)
        natural = [runner.interface, _renamed(declared, runner.interface)]
        dimensions = groups(base, [_requested(request.dynamic), *natural])
        if not any(group.name == BATCH for group in dimensions):
            dimensions = (*_assumed_batch(base, declared), *dimensions)
        together = sums(runner.interface)
        budget = Budget(base, seconds)
        runs, kept, notes = _climb(runner, base, expected, dimensions, together, budget)
        fewer = tied(dimensions, {group.name for group in dimensions} - {group.name for group in kept})
        if fewer != dimensions:
            budget = Budget(base, seconds)
            runs, kept, notes = _climb(runner, base, expected, fewer, together, budget)
        interface = replace(
            with_dynamic(runner.interface, kept, base),
            outputs=output_specs([(v.inputs, outputs) for v, outputs in runs], kept, together),
        )
        runs += _beyond(runner, base, next((group for group in kept if group.name == BATCH), None), budget)
        measured = measure(runner, runs, interface)
        rungs = _written(Path(request.folder), runs, measured)
        steps = tuple(_steps(Path(request.folder), runner, base))
        return Reference(
            interface=interface,
            rungs=(*rungs, *steps),
            trace=_traceable(rungs, interface),
            evidence=evidence,
            optional=_optional(kept, groups(base, natural)),
            calibration="" if evidence == "random" else rungs[0].inputs,
            unstable=_unstable(runner, base, expected),
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
            ),
            runtime=runner.runtime,
            sparsity=getattr(runner, "sparsity", None),
        )


class _Opened:
    """A runner's context whose loading errors are named as the checkpoint's."""

    def __init__(self, format_: Format, origin: Origin) -> None:
        self._format, self._origin = format_, origin

    def __enter__(self) -> Runner:
        try:
            self._context = self._origin.open(self._format)
            return self._context.__enter__()
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


def _requested(dynamic: Mapping[str, Mapping[str, str]]) -> Interface:
    def shape(axes: Mapping[str, str]) -> tuple[Dimension, ...]:
        rank = max(int(axis) for axis in axes) + 1
        return tuple(axes.get(str(axis), -1) for axis in range(rank))

    return Interface(inputs=tuple(TensorSpec(name, "", shape(axes)) for name, axes in dynamic.items() if axes))


def _renamed(declared: Interface, resolved: Interface) -> Interface:
    """Give a declared signature the model's names, by position where its own are not the model's."""
    if len(declared.inputs) != len(resolved.inputs):
        return Interface(inputs=())
    names = {spec.name for spec in resolved.inputs}
    if {spec.name for spec in declared.inputs} == names:
        return declared
    pairs = zip(declared.inputs, resolved.inputs, strict=True)
    return Interface(inputs=tuple(replace(d, name=r.name) for d, r in pairs))


def _assumed_batch(base: Mapping[str, Array], declared: Interface) -> tuple[Group, ...]:
    """Take axis 0 for the batch where no shape is declared: of the inputs that agree on the commonest size."""
    if any(spec.shape is not None for spec in declared.inputs):
        return ()
    leading = {name: array.shape[0] for name, array in base.items() if array.ndim}
    if not leading:
        return ()
    sizes = tuple(leading.values())
    batch = max(sizes, key=lambda size: (sizes.count(size), size))
    return (Group(BATCH, tuple((name, 0) for name, size in leading.items() if size == batch), batch),)


def _climb(
    runner: Runner,
    base: Mapping[str, Array],
    expected: dict[str, Array],
    dimensions: Sequence[Group],
    together: Sequence[Sum],
    budget: Budget,
) -> tuple[list[tuple[Variation, dict[str, Array]]], tuple[Group, ...], list[str]]:
    """Run every variation that the budget allows; a dimension that the source itself refuses to vary is not dynamic."""
    runs: list[tuple[Variation, dict[str, Array]]] = []
    refused: dict[str, str] = {}

    def run(found: Iterable[Variation]) -> None:
        for variation in found:
            try:
                runs.append((variation, runner.infer(variation.inputs) if variation.group else expected))
            except Exception as error:  # noqa: BLE001  a refusal is the answer to the question asked here
                refused.setdefault(variation.group, f"at {variation.name}: {one_line(error)}")

    run(budget.affordable(list(variations(base, dimensions, together=together))))
    for group in dimensions:
        if group.name in refused and not any(_longer(group, variation) for variation, _ in runs):
            run(multiples(base, group, dimensions, together=together))
    varied = {variation.group for variation, _ in runs}
    kept = tuple(group for group in dimensions if group.name in varied)
    notes = [_static_note(g, refused[g.name]) for g in dimensions if g.name not in varied]
    notes += [f"The source refuses {g.name} {refused[g.name]}." for g in kept if g.name in refused]
    return runs, kept, notes


def _longer(group: Group, variation: Variation) -> bool:
    name, axis = group.axes[0]
    return variation.group == group.name and variation.inputs[name].shape[axis] > group.size


def _beyond(
    runner: Runner, base: Mapping[str, Array], batch: Group | None, budget: Budget
) -> list[tuple[Variation, dict[str, Array]]]:
    """Run the rungs beyond the sample's own values; those that the source refuses, or has no time for, are none."""

    def pays(name: str, inputs: Mapping[str, Array], times: int) -> bool:
        return budget.pays(name, times * budget.cost(inputs))

    tried = (drawn(base, batch), *edges(base, batch, runner.infer, pays))
    taken = [variation for variation in tried if pays(variation.name, variation.inputs, _TIMES_RUN)]
    found = ((variation, answered(runner.infer, variation.inputs)) for variation in taken)
    return [(variation, outputs) for variation, outputs in found if outputs is not None]


def _seconds(runner: Runner, base: Mapping[str, Array], first: float) -> float:
    """Time a run; the first one that is slow is timed again, because it may have read the weights from the disk."""
    if first < _SLOW:
        return first
    began = time.monotonic()
    runner.infer(base)
    return min(first, time.monotonic() - began)


def _static_note(group: Group, why: str) -> str:
    what = "batch" if group.name == BATCH else f"dimension {group.name}"
    if group.name == BATCH and group.size < _SEVERAL:
        advice = "log it with an input example of 2 or more rows (and, for a PyTorch module, in `.eval()` mode)"
    elif group.name == BATCH:
        advice = (
            "let the model take its sizes from its inputs, and log it with an example whose first axis is the batch"
        )
    else:
        advice = "log it with that dimension dynamic"
    return (
        f"The checkpoint itself is static: its {what} is fixed at {group.size} ({why}). To get a dynamic one, {advice}."
    )


def _unstable(runner: Runner, base: Mapping[str, Array], expected: Mapping[str, Array]) -> str:
    again = runner.infer(base)
    for name, array in expected.items():
        if array.shape != again[name].shape or not np.allclose(
            array, again[name], rtol=1e-3, atol=1e-5, equal_nan=array.dtype.kind == "f"
        ):
            return (
                f"source is unstable: two runs on the same input differ in output {name} "
                "(if it was logged in training mode, with dropout active, call `.eval()` and log it again)"
            )
    return ""


def _optional(kept: Sequence[Group], natural: Sequence[Group]) -> dict[str, dict[str, int]]:
    """Return the places that vary only because a target asked for it, with their sizes in the sample."""
    own = {place for group in natural for place in group.axes}
    found: dict[str, dict[str, int]] = {}
    for group in kept:
        for name, axis in group.axes:
            if group.name != BATCH and (name, axis) not in own:
                found.setdefault(name, {})[str(axis)] = group.size
    return found


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
