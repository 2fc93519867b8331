"""The noise floor of a source: how far its answers are from its own, computed another way.

What a source cannot say of itself cannot be asked of an export. These ways are compared with the plain run:
in float64, with one thread in place of several (both where the source's framework has them), rows alone in
place of a batch, and inputs nudged by what rounding is anyhow. Runs in the child that has the source open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from registry_export.comparison import is_continuous, is_finite, real, size_of
from registry_export.dimensions import BATCH
from registry_export.entities import Interface, NoiseFloor, Tolerance
from registry_export.format import Runner
from registry_export.inference import EDGE, answered
from registry_export.ladder import is_measured
from registry_export.samples import Array
from registry_export.tolerances import DEFAULT_TOLERANCES, too_noisy
from registry_export.variations import Variation

Infer = Callable[[Mapping[str, Array]], dict[str, Array]]

Run = tuple[Variation, dict[str, Array]]
"""Inputs with the source's plain answers."""

ROWS_ALONE = "rows alone"
NUDGED = "inputs nudged"

_ROUNDING = float(np.finfo(np.float32).eps)
_SIZE_OF_ZEROS = 100.0


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        floor: On inputs in the samples' range.
        by_rung: By rung, on the inputs beyond it.
        tolerance: The default of the precision that the source computes in.
        unstable: Why the source cannot be judged against; empty when it can.
        notes: Sentences for the report.
    """

    floor: NoiseFloor
    tolerance: Tolerance
    by_rung: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unstable: str = ""
    notes: tuple[str, ...] = ()


def measure(runner: Runner, runs: Sequence[Run], outputs: Interface) -> Measured:
    """Measure a source's noise floor.

    Args:
        runner: The source; its attribute `variants` holds the other ways that its framework has, by name.
        runs: All of its rungs, the example first.
        outputs: Which axis of an output is the batch.
    """
    tolerance = _default(runner, runs[0][1])
    variants: Mapping[str, Infer] = getattr(runner, "variants", {})
    ways = {**variants, NUDGED: _nudged(runner.infer)}
    within = min((run for run in runs if _several_rows(run)), key=lambda run: _elements(run[0]), default=runs[0])
    beyond = [run for run in runs if _has_other_values(run)]
    found: dict[str, dict[str, float]] = {}
    by_rung: dict[str, dict[str, float]] = {}
    for way, infer in ways.items():
        differences = _differences(infer, within)
        if differences is None:
            continue
        found[way] = differences
        for run in beyond:
            _raise(by_rung.setdefault(run[0].name, {}), _differences(infer, run) or {})
    found |= {ROWS_ALONE: rows} if (rows := _rows_alone(runs, outputs)) else {}
    notes = []
    for way, note in _PROPERTIES.items():
        if way in found and _unstable({way: found[way]}, within[1], tolerance):
            del found[way]
            notes.append(note)
    unstable = _unstable(found, within[1], tolerance)
    floor: dict[str, float] = {}
    for differences in found.values():
        _raise(floor, differences)
    return Measured(NoiseFloor(tuple(found), floor), tolerance, by_rung, unstable, tuple(notes))


_PROPERTIES = {
    ROWS_ALONE: "The source's answer to a row depends on the other rows of its batch.",
    NUDGED: "The source jumps: inputs that differ from its samples by rounding alone have other answers.",
}
"""Large differences of these ways are no noise, but properties of a model that its exports must share."""


def disagreement(runner: Runner, base: Mapping[str, Array], expected: Mapping[str, Array]) -> str:
    """Run a source on its first inputs once more, and say where it gives another answer; empty where it does not."""
    again = runner.infer(base)
    for name, array in expected.items():
        if (
            name not in again
            or array.shape != again[name].shape
            or not np.allclose(array, again[name], rtol=1e-3, atol=1e-5, equal_nan=is_continuous(array))
        ):
            return (
                f"source is unstable: two runs on the same input differ in output {name} "
                "(if it was logged in training mode, with dropout active, call `.eval()` and log it again)"
            )
    return ""


def _nudged(infer: Infer) -> Infer:
    """Run on inputs that differ by rounding: where equal scores are sorted, or a limit is met, answers jump."""
    generator = np.random.default_rng(0)

    def nudge(array: Array) -> Array:
        if not is_measured(array):
            return array
        values = array.astype(np.float64)
        # What goes through a layer as zeros comes out as its bias, of which a share of nothing is no rounding.
        size = np.maximum(np.abs(values), float(np.sqrt(np.mean(values**2)))) if values.any() else _SIZE_OF_ZEROS
        moved = values + _ROUNDING * size * generator.standard_normal(array.shape)
        return np.asarray(moved, array.dtype)

    return lambda inputs: infer({name: nudge(array) for name, array in inputs.items()})


def _has_other_values(run: Run) -> bool:
    """Say whether a rung's values, and not only its sizes, are beyond the samples': noise is measured there anew."""
    return run[0].kind == EDGE and not run[0].group


def _several_rows(run: Run) -> bool:
    return run[0].kind in ("example", "batch") and run[0].name != f"{BATCH} 1" and "row" not in run[0].name


def _elements(variation: Variation) -> int:
    return sum(array.size for array in variation.inputs.values())


def _differences(infer: Infer, run: Run) -> dict[str, float] | None:
    """Compare another way of computing with the plain one; None where the model cannot be computed so."""
    other = answered(infer, run[0].inputs)
    if other is None or any(name not in other or other[name].shape != array.shape for name, array in run[1].items()):
        return None
    return {name: difference(array, other[name]) for name, array in run[1].items()}


def difference(one: Array, other: Array) -> float:
    """Return the largest difference of finite floats and parts of complex numbers, or the share of what differs."""
    if not one.size:
        return 0.0
    if not is_continuous(one):
        return float(np.mean(one != other))
    with np.errstate(invalid="ignore"):
        apart = np.abs(real(one).astype(np.float64) - real(other).astype(np.float64))
    known = apart[np.isfinite(apart)]
    return float(known.max()) if known.size else 0.0


def _raise(floor: dict[str, float], by: Mapping[str, float]) -> None:
    for name, value in by.items():
        floor[name] = max(floor.get(name, 0.0), value)


def _default(runner: Runner, answers: Mapping[str, Array]) -> Tolerance:
    """Return the default tolerance of the precision that a source computes in."""
    precision = getattr(runner, "precision", "")
    if any(array.dtype == np.float16 for array in answers.values()):
        precision = precision or "fp16"
    return DEFAULT_TOLERANCES.get(precision, DEFAULT_TOLERANCES["fp32"])


def _unstable(found: Mapping[str, Mapping[str, float]], answers: Mapping[str, Array], tolerance: Tolerance) -> str:
    for way, differences in found.items():
        for name, value in differences.items():
            array = answers[name]
            if too_noisy(tolerance, size_of(array), value, exact=not is_continuous(array)):
                kind = "at its largest" if is_continuous(array) else "of its elements"
                return f"source is unstable: its output {name} differs by {value:.1e} {kind} when computed with {way}"
    return ""


def _rows_alone(runs: Sequence[Run], outputs: Interface) -> dict[str, float]:
    """Compare the first row of the example with the batch of 1 that holds it alone."""
    example = runs[0][1]
    alone = next((answers for variation, answers in runs if variation.name == f"{BATCH} 1"), None)
    if alone is None:
        return {}
    found: dict[str, float] = {}
    for spec in outputs.outputs:
        axis = next((i for i, dimension in enumerate(spec.shape or ()) if dimension == BATCH), None)
        if axis is None or not example[spec.name].shape[axis]:
            continue
        row = np.take(example[spec.name], [0], axis=axis)
        if row.shape == alone[spec.name].shape:
            found[spec.name] = difference(row, alone[spec.name])
    return found


def unfit(measured: Measured, run: Run) -> str:
    """Say why no export can be judged on inputs beyond the samples' range; empty when one can."""
    if run[0].kind != EDGE:
        return ""
    noise = carried(measured, run)
    for name, array in run[1].items():
        exact = not is_continuous(array)
        if not is_finite(array):
            return f"the source's own output {name} is not finite here"
        if too_noisy(measured.tolerance, size_of(array), noise.get(name, 0.0), exact=exact):
            return f"the source is unstable here: its output {name} differs by {noise[name]:.1e} from itself"
    return ""


def carried(measured: Measured, run: Run) -> dict[str, float]:
    """Return the noise floor that holds on a rung's inputs: its own where it was measured there."""
    if _has_other_values(run):
        return dict(measured.by_rung.get(run[0].name, {}))
    return dict(measured.floor.outputs)
