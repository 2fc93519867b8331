"""Run an artifact, inside a child, on the inputs that the source has answered.

Takes and returns plain data; arrays stay in the work folder, written by `tensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Description, Interface
from registry_export.errors import RegistryExportError, RuntimeAbsentError, VerificationError
from registry_export.format import Runner
from registry_export.inference import Origin, RungFiles, one_line, one_sided
from registry_export.samples import Array
from registry_export.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class ReplayRequest:
    """What the run of an artifact is given; `folder` is where its outputs are written."""

    origin: Origin
    rungs: tuple[RungFiles, ...]
    folder: str


@dataclass(frozen=True)
class RunsHereRequest:
    """An artifact by its format and its own account of itself; the files may be far away."""

    format: str
    description: Description


@dataclass(frozen=True)
class ReplayedRung:
    """What became of one rung: outputs in `actual`, or why there are none.

    `skipped` says that the artifact's shapes are fixed at another size; `error` that the call failed.
    """

    actual: str = ""
    skipped: str = ""
    error: str = ""


@dataclass(frozen=True)
class Replay:
    """An artifact's answers, rung by rung, and sentences on it.

    `by` says who answered: `runtime`, or `evaluator` where that is not here.
    """

    rungs: tuple[ReplayedRung, ...]
    runtime: str
    notes: tuple[str, ...] = ()
    by: str = "runtime"


def replay(arguments: Any) -> Replay:
    """Run an artifact, loaded back from its files, on every rung that fits its shapes.

    Raises:
        VerificationError: It cannot be loaded.
        RuntimeAbsentError: Its runtime is not available here.
    """
    request = msgspec.convert(arguments, ReplayRequest)
    request.origin.enter()
    format_ = format_named(discover_formats(), request.origin.format)
    try:
        with request.origin.open(format_) as runner:
            rungs: list[ReplayedRung] = []
            for rung in request.rungs:
                rungs.append(_replay_rung(runner, rung, request, rungs[-1] if rung.feeds else None))
            by = str(getattr(runner, "by", "runtime"))
            return Replay(tuple(rungs), runner.runtime, one_sided(runner), by)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise VerificationError(f"The exported model cannot be loaded: {one_line(error)}") from error


RUNS_HERE = f"{__name__}:runs_here"
"""The name of the next function, as a child is called."""


def runs_here(arguments: Any) -> str:
    """Ask a format why this machine cannot run one of its artifacts; empty where it can."""
    request = msgspec.convert(arguments, RunsHereRequest)
    answer: str = format_named(discover_formats(), request.format).runs_here(request.description)  # type: ignore[attr-defined]
    return answer


def _replay_rung(runner: Runner, rung: RungFiles, request: ReplayRequest, before: ReplayedRung | None) -> ReplayedRung:
    inputs: Mapping[str, Array] = read_tensors(Path(rung.inputs))
    if before is not None:
        if not before.actual:
            return ReplayedRung(skipped=before.skipped, error=before.error)
        answered = read_tensors(Path(before.actual))
        fed = {name: answered[output] for name, output in rung.feeds.items() if output in answered}
        inputs = {**inputs, **fed}
    misfit = _misfit(inputs, request.origin.interface)
    if misfit:
        return ReplayedRung(skipped=misfit)
    try:
        outputs = runner.infer(inputs)
    except (MemoryError, RuntimeAbsentError):
        raise
    except Exception as error:  # noqa: BLE001  the verdict on this rung, not the end of the others
        return ReplayedRung(error=one_line(error))
    folder = Path(request.folder) / Path(rung.inputs).name.replace("inputs", "actual")
    write_tensors(folder, outputs)
    return ReplayedRung(actual=str(folder))


def _misfit(inputs: Mapping[str, Array], interface: Interface) -> str:
    """Say where inputs do not fit an artifact's fixed sizes; empty when they do."""
    for spec in interface.inputs:
        if spec.name not in inputs or spec.shape is None:
            continue
        for axis, (dimension, size) in enumerate(zip(spec.shape, inputs[spec.name].shape, strict=False)):
            if isinstance(dimension, int) and dimension != size:
                return f"axis {axis} of {spec.name} is fixed at {dimension}"
    return ""
