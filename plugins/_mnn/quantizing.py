"""Static int8: MNN's quantizer, given calibration samples.

Activations are calibrated with `EMA` and with `ADMM`, and the result closer to the model on the samples is
kept; in MNN 3.6 the quantizer crashes with its default, `KL`. It runs as a C extension in a process of its
own, like the converter.

Source: https://mnn-docs.readthedocs.io/en/latest/tools/quant.html
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from registry_export.errors import ConversionError, SamplesError
from registry_export.format import Array, ConversionRequest

_CALL = "import sys, _tools; _tools.mnnquant(sys.argv)"
METHODS = ("EMA", "ADMM")
"""Ways to calibrate, in the order in which they are tried."""
_MOST_ROWS = 64
_MOST_NUMBERS = 10_000_000
"""Samples are handed over as text: more would take minutes to write and to read."""


def quantize(
    model: Path, made: Path, keys: Sequence[str], outputs: Sequence[str], method: str, request: ConversionRequest
) -> str:
    """Quantize a converted model and return a sentence that says on how many rows.

    Args:
        model: What the converter wrote in fp32.
        made: The file to write, in the same folder.
        keys: The file's names of the interface's inputs.
        outputs: The file's names of its outputs.
        method: How activations are calibrated, of `METHODS`.
        request: The conversion's request; its calibration samples are used.

    Raises:
        SamplesError: There are no calibration samples.
        ConversionError: The quantizer crashed or wrote nothing.
    """
    rows = calibration_rows(request)
    if not rows:
        raise SamplesError(
            "Static int8 needs samples to calibrate with, and there are none.",
            remedy="Give the rule samples, log an input example, or ask for quantization=weight_only.",
        )
    folder = model.parent / f"{made.stem}-samples"
    for number, row in enumerate(rows):
        _write(folder / str(number), dict(zip(keys, row, strict=True)), outputs)
    settings = {
        "input_type": "sequence",
        "path": f"{folder.name}/",
        "used_sample_num": len(rows),
        "batch_size": 1,
        "quant_bits": 8,
        "feature_quantize_method": method,
        "weight_quantize_method": "MAX_ABS",
    }
    asked = model.parent / f"{made.stem}.json"
    asked.write_text(json.dumps(settings))
    command = [sys.executable, "-c", _CALL, model.name, made.name, asked.name]
    done = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0 or not made.is_file():
        last = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise ConversionError(
            f"MNN's quantizer failed with the exit status {done.returncode}: {''.join(last)[:300]}",
            remedy="Ask for quantization=weight_only.",
        )
    return f"Activations were calibrated on {len(rows)} rows with {method}."


def calibration_rows(request: ConversionRequest) -> list[list[Array]]:
    """Cut the calibration samples into single rows, or into what a fixed first axis takes at once.

    Returns:
        Of each row one array per input, in order; a number without axes is the same in all of them.
    """
    specs = request.interface.inputs
    arrays = [request.calibration[spec.name] for spec in specs if spec.name in request.calibration]
    if len(arrays) != len(specs) or not arrays:
        return []
    sizes = [spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else 1 for spec in specs]
    pairs = list(zip(arrays, sizes, strict=True))
    numbers = sum(int(np.prod(array.shape[1:])) * size for array, size in pairs)
    count = min((len(array) // size for array, size in pairs if array.ndim), default=1)
    count = min(count, _MOST_ROWS, max(1, _MOST_NUMBERS // max(numbers, 1)))
    return [
        [np.asarray(array[i * size : (i + 1) * size] if array.ndim else array) for array, size in pairs]
        for i in range(count)
    ]


def _write(folder: Path, arrays: Mapping[str, Array], outputs: Sequence[str]) -> None:
    """Write a sample as the quantizer reads it: one text file for each input, one number a line."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        file = folder / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = array.dtype.kind in "iub"
        np.savetxt(file, array.reshape(-1), fmt="%d" if whole else "%.9g")
    inputs = [{"name": name, "shape": list(array.shape)} for name, array in arrays.items()]
    (folder / "input.json").write_text(json.dumps({"inputs": inputs, "outputs": list(outputs)}))
