"""What is asked of an ONNX file besides its numbers, and the ways of getting there that are tried in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from registry_export.entities import Attempt
from registry_export.errors import ConversionError, VerificationError
from registry_export.format import Array, ConversionRequest, Tensors
from registry_export_plugins._onnx.libraries import lay_library
from registry_export_plugins._onnx.opsets import first_line
from registry_export_plugins._onnx.trial import outputs_of


@dataclass(frozen=True)
class Wanted:
    """What a file is to be.

    Attributes:
        opset: Of the default domain; None keeps the model's.
        optimize: Whether to simplify the graph.
        precision: `fp32` (which changes nothing), `fp16`, `bf16` or `int8`.
        quantization: `static` or `dynamic`; how int8 is reached.
        layout: `full` or `symmetric`; where static int8 puts its quantizers.
        external_data: Whether weights lie beside the file however few they are.
        library: A shared library with the custom operators that the model calls.
        samples: Inputs by name, to try the file on.
        calibration: Inputs by name, all rows on axis 0, to measure activations on.
        work: A folder for temporary files.
    """

    opset: int | None = None
    optimize: bool = False
    precision: str = "fp32"
    quantization: str = "static"
    layout: str = "full"
    external_data: bool = False
    library: Path | None = None
    samples: Tensors = field(default_factory=dict)
    calibration: Tensors = field(default_factory=dict)
    work: Path = Path()


def wanted_of(request: ConversionRequest, opset: int | None, library: Path | None = None) -> Wanted:
    """Read a request's options; those that it lacks keep their defaults."""
    options = request.options
    return Wanted(
        opset=opset,
        optimize=bool(options.get("optimize")),
        precision=str(options.get("precision") or "fp32"),
        quantization=str(options.get("quantization") or "static"),
        layout=str(options.get("qdq") or "full"),
        external_data=bool(options.get("external_data")),
        library=library,
        samples=request.samples,
        calibration=request.calibration,
        work=request.work,
    )


@dataclass(frozen=True)
class Way:
    """One way to a file in another precision.

    Attributes:
        name: For the report.
        make: Writes the file; raises whatever its converter raises.
        note: A sentence for the report's reader when this way is taken.
    """

    name: str
    make: Callable[[Path], None]
    note: str = ""


@dataclass(frozen=True)
class Taken:
    """The way that was taken: the file, what was tried, and sentences for the report."""

    path: Path
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]


class Judge:
    """Compares candidates with the model that they were made from, on the samples that it was traced with.

    Where these cannot be run here, every candidate that is valid is good.
    """

    def __init__(self, original: Path, wanted: Wanted) -> None:
        self._samples = wanted.samples
        self._folder = wanted.work / "trial"
        self._expected = outputs_of(original, wanted.samples, self._folder) if wanted.samples else None

    def signal_to_noise(self, candidate: Path) -> float:
        """Return the worst output's ratio of signal to noise in decibels; infinite where all are equal.

        Raises:
            VerificationError: The candidate cannot be loaded or run, or gives another shape, or NaN or
                infinity where the original gives numbers.
        """
        if self._expected is None:
            return float("inf")
        actual = outputs_of(candidate, self._samples, self._folder)
        if actual is None:
            return float("inf")
        return min((_ratio(actual[name], self._expected[name], name) for name in self._expected), default=float("inf"))


def _ratio(actual: Array, expected: Array, name: str) -> float:
    if actual.shape != expected.shape:
        raise VerificationError(f"Output {name} has another shape than the original's on the samples.")
    if expected.dtype.kind != "f":
        return float("inf")
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    usable = np.isfinite(e)
    if not np.isfinite(a[usable]).all():
        raise VerificationError(f"Output {name} is infinite or not a number on the samples.")
    noise, signal = float(np.square(a[usable] - e[usable]).sum()), float(np.square(e[usable]).sum())
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else 0.0


def best_of(
    ways: Iterable[Way], original: Path, wanted: Wanted, enough: float, problem: Callable[[Path], str]
) -> Taken:
    """Take the first way whose result is valid, loads, and has enough signal; else the one with most signal.

    Args:
        ways: In the order in which to try them.
        original: The model in its own precision.
        wanted: Samples and the folder to work in.
        enough: Decibels on the samples below which the next way is tried.
        problem: Says what is wrong with a file that was written; empty when nothing is.

    Raises:
        ConversionError: None gave a valid file that runs.
    """
    judge = Judge(original, wanted)
    attempts: list[Attempt] = []
    best: tuple[float, Path, Way] | None = None
    for number, way in enumerate(ways):
        candidate = wanted.work / f"{wanted.precision}-{number}" / original.name
        candidate.parent.mkdir(parents=True, exist_ok=True)
        if wanted.library is not None:
            lay_library(wanted.library, candidate)
        try:
            way.make(candidate)
            if fault := problem(candidate):
                raise ConversionError(fault)
            signal = judge.signal_to_noise(candidate)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  quantizers raise whatever they trip over; kept in the report
            attempts.append(Attempt(way.name, _reason(error)))
            continue
        if best is None or signal > best[0]:
            best = signal, candidate, way
        attempts.append(Attempt(way.name, "" if signal >= enough else f"signal to noise of {signal:.1f} dB"))
        if signal >= enough:
            break
    if best is None:
        tried = "; ".join(f"{attempt.way}: {attempt.error.rstrip('.')}" for attempt in attempts)
        raise ConversionError(f"No way to {wanted.precision} gave a valid file: {tried}.")
    return Taken(best[1], _with_best_last(attempts, best[2]), (best[2].note,) if best[2].note else ())


def _with_best_last(attempts: list[Attempt], best: Way) -> tuple[Attempt, ...]:
    """Put the way that was taken last, as one that worked."""
    return (*(attempt for attempt in attempts if attempt.way != best.name), Attempt(best.name))


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, (ConversionError, VerificationError)) else first_line(error)
