"""What a file is worth, asked of every file alike: `python -m tests.peers.check FILE ANSWERS`.

Prints as JSON the batches that it takes, and the largest difference from the source's answers on them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.peers.checkpoint import BATCHES

Runner = Callable[[np.ndarray], np.ndarray]


def _onnx(path: str) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda given: session.run(None, {name: given})[0]


def _torchscript(path: str) -> Runner:
    import torch

    module = torch.jit.load(path)

    def run(given: np.ndarray) -> np.ndarray:
        answer = module(torch.from_numpy(given))
        if isinstance(answer, dict):
            (answer,) = answer.values()
        return (answer[0] if isinstance(answer, (tuple, list)) else answer).numpy()

    return run


def _openvino(path: str) -> Runner:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda given: compiled(given)[0]


_RUNNERS = {".onnx": _onnx, ".pt": _torchscript, ".xml": _openvino}


def main(path: str, answers: str) -> None:
    """Run it on every batch."""
    run = _RUNNERS[Path(path).suffix](path)
    taken, worst = [], 0.0
    with np.load(answers) as arrays:
        for batch in BATCHES:
            expected = arrays[f"answer{batch}"]
            try:
                got = run(arrays[f"given{batch}"])
            except Exception as error:  # noqa: BLE001  a fixed size is refused in as many ways as there are runtimes
                print(f"{batch}: {error}", file=sys.stderr)
                continue
            if got.shape == expected.shape:
                taken.append(batch)
                worst = max(worst, float(np.abs(got.astype(np.float64) - expected).max()))
    print(json.dumps({"batches": taken, "max_abs_diff": worst}))


if __name__ == "__main__":
    main(*sys.argv[1:])
