"""Single calls of a TensorFlow Lite file cut out of samples: to calibrate on, and to compare two files on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from registry_export.entities import Interface
from registry_export.errors import ConversionError
from registry_export.format import Array, Tensors
from registry_export_plugins._tensorflow.lite_runner import LiteRTRunner

MOST_ROWS = 200
"""Rows to calibrate on; ranges hardly change with more."""

_CHECKED_ROWS = 8


def calibration_rows(path: Path, interface: Interface, samples: Tensors) -> list[dict[str, Array]]:
    """Cut samples into single calls of a file, by the file's own input names.

    Args:
        path: A `.tflite` file.
        interface: The names of its inputs among the samples.
        samples: Arrays by input name with their rows on axis 0.

    Raises:
        ConversionError: There are no samples, or none has the sizes that the file is fixed to.
    """
    runner = LiteRTRunner(path, interface)
    names = [name for name, _ in runner.inputs]
    absent = [name for name in names if name not in samples]
    if absent:
        raise ConversionError(
            f"int8 needs samples to calibrate on, and there are none for {', '.join(absent)}.",
            remedy="Log the model with an input example, name samples in the rule, or ask for quantization: dynamic.",
        )
    sizes = {name: runner.sizes(name) for name in names}
    step = max((size[0] for size in sizes.values() if size and size[0] > 0), default=1)
    total = min((len(samples[name]) for name in names if sizes[name]), default=step)
    starts = np.unique(np.linspace(0, max(total - step, 0), min(MOST_ROWS, max(total // step, 1)), dtype=int))
    rows = [_row(runner, samples, sizes, int(start), step) for start in starts]
    fitting = [row for row in rows if row is not None]
    if not fitting:
        shown = ", ".join(f"{name} {tuple(size)}" for name, size in sizes.items())
        raise ConversionError(f"None of the samples has the sizes that the file is fixed to: {shown}.")
    return fitting


def _row(
    runner: LiteRTRunner, samples: Tensors, sizes: Mapping[str, Sequence[int]], start: int, step: int
) -> dict[str, Array] | None:
    row = {}
    for name, key in runner.inputs:
        size = sizes[name]
        given = np.asarray(samples[name])
        rest = (slice(0, n) if n > 0 else slice(None) for n in size[1:])
        cut = given[(slice(start, start + step), *rest)] if size else given
        if any(n > 0 and n != found for n, found in zip(size, cut.shape, strict=True)):
            return None
        row[key] = runner.fitting(name, cut)
    return row


def signal_to_noise(
    reference: Path, runner: LiteRTRunner, interface: Interface, rows: Sequence[Mapping[str, Array]]
) -> float:
    """Compare a file with the float file it was made of, on a few rows.

    Returns:
        Power of the output over power of the difference, in decibels, of the worst floating-point output.
    """
    source = LiteRTRunner(reference, interface)
    keys = dict(source.inputs)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for row in rows[:: max(1, len(rows) // _CHECKED_ROWS)]:
        inputs = {name: row[key] for name, key in keys.items()}
        for (name, expected), actual in zip(source.infer(inputs).items(), runner.infer(inputs).values(), strict=True):
            if expected.dtype.kind == "f":
                exact = expected.astype(np.float64)
                signal[name] = signal.get(name, 0.0) + float(np.sum(exact**2))
                noise[name] = noise.get(name, 0.0) + float(np.sum((actual - exact) ** 2))
    ratios = [signal[name] / max(noise[name], 1e-30) for name in signal if signal[name] > 0]
    return min((10 * float(np.log10(max(ratio, 1e-30))) for ratio in ratios), default=np.inf)
