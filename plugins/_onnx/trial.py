"""Trying a file in a process of its own: there are valid files at whose sight ONNX Runtime dies.

Run as a program, with a folder as its argument: it reads `call.json` and `inputs.npz`, and writes `outputs.npz`
and `answer.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from registry_export.errors import RuntimeAbsentError, SourceError, VerificationError
from registry_export.format import Array, Tensors


def outputs_of(path: Path, inputs: Tensors, folder: Path) -> Mapping[str, Array] | None:
    """Run a file once.

    Args:
        path: The model.
        inputs: Arrays by input name.
        folder: A folder for what passes between the processes.

    Returns:
        Arrays by output name; None where this ONNX Runtime is too old for the file.

    Raises:
        VerificationError: It cannot be loaded or run, or the process died of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    np.savez(folder / "inputs.npz", *inputs.values())
    (folder / "call.json").write_text(json.dumps({"path": str(path.resolve()), "inputs": list(inputs)}))
    program = [sys.executable, "-m", "registry_export_plugins._onnx.trial", str(folder.resolve())]
    finished = subprocess.run(program, capture_output=True, text=True, check=False)
    if not answer.exists():
        raise VerificationError(f"ONNX Runtime ended with status {finished.returncode} when it loaded or ran the file.")
    said = json.loads(answer.read_text())
    if said["error"]:
        raise VerificationError(said["error"])
    if said["outputs"] is None:
        return None
    with np.load(folder / "outputs.npz") as arrays:
        return {name: arrays[f"arr_{i}"] for i, name in enumerate(said["outputs"])}


def _main(folder: Path) -> None:
    from registry_export.entities import Interface
    from registry_export_plugins._onnx.runner import OnnxRunner

    call = json.loads((folder / "call.json").read_text())
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[f"arr_{i}"] for i, name in enumerate(call["inputs"])}
    names, error = None, ""
    try:
        outputs = OnnxRunner(Path(call["path"]), Interface(())).infer(inputs)
        np.savez(folder / "outputs.npz", *outputs.values())
        names = list(outputs)
    except RuntimeAbsentError:
        pass
    except (SourceError, VerificationError) as failure:
        error = failure.message
    (folder / "answer.json").write_text(json.dumps({"outputs": names, "error": error}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
