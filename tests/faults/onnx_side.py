"""ONNX's nets in a child: written as checkpoints, sound and mutated, and measured against each other.

ONNX Runtime computes in float32 here, since few of its kernels take doubles; differences are taken in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from registry_export.tensors import write_tensors
from tests.faults.effects import Array, Inputs, Measure, Model
from tests.faults.nets.graphs import NETS

FILE = "model.onnx"


def build(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write a net's checkpoint, one for each of its faults, and its example; returns what was written."""
    net, folder = NETS[arguments["net"]], Path(arguments["folder"])
    source = _saved(net.build(), folder / "source")
    faults = []
    for number, fault in enumerate(net.faults):
        model = net.build()
        fault.plant(model)
        faults.append({"kind": fault.kind, "name": fault.name, "path": _saved(model, folder / f"fault-{number}")})
    write_tensors(folder / "example", net.inputs)
    inputs = [{"name": n, "dtype": a.dtype.name, "shape": ["batch", *a.shape[1:]]} for n, a in net.inputs.items()]
    return {"source": source, "example": str(folder / "example"), "inputs": inputs, "faults": faults}


def _saved(model: onnx.ModelProto, folder: Path) -> str:
    folder.mkdir(parents=True)
    onnx.save(model, folder / FILE)
    return str(folder / FILE)


def effects(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure mutated checkpoints against the sound one."""
    source = _model(arguments["source"])
    measure = Measure(arguments, NETS[arguments["net"]].inputs, source, source)
    found = []
    for path in arguments["faults"]:
        model = _model(path)
        found.append(measure.of(model, model))
    return found


def _model(path: str) -> Model:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: Inputs) -> list[Array]:
        return list(session.run(names, {name: np.array(array) for name, array in inputs.items()}))

    return run
