"""Keras's nets in a child: written as checkpoints, sound and mutated, and measured against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from registry_export.tensors import write_tensors
from tests.faults.effects import Array, Inputs, Measure, Model
from tests.faults.nets.keras_nets import NETS, in_double

FILE = "model.keras"


def build(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write a net's checkpoint, one for each of its faults, and its example; returns what was written."""
    net, folder = NETS[arguments["net"]], Path(arguments["folder"])
    keras.utils.set_random_seed(0)
    model = net.build()
    source = _saved(model, folder / "source")
    faults = []
    for number, fault in enumerate(net.faults):
        path = _saved(fault.plant(model), folder / f"fault-{number}")
        faults.append({"kind": fault.kind, "name": fault.name, "path": path})
    write_tensors(folder / "example", net.inputs)
    shapes = {name: ["batch", *array.shape[1:]] for name, array in net.inputs.items()}
    inputs = [{"name": n, "dtype": a.dtype.name, "shape": shapes[n]} for n, a in net.inputs.items()]
    return {"source": source, "example": str(folder / "example"), "inputs": inputs, "faults": faults}


def _saved(model: Any, folder: Path) -> str:
    folder.mkdir(parents=True)
    model.save(folder / FILE)
    return str(folder / FILE)


def effects(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure mutated checkpoints against the sound one, in float64."""
    source = keras.saving.load_model(arguments["source"])
    measure = Measure(arguments, NETS[arguments["net"]].inputs, *_models(source))
    return [measure.of(*_models(keras.saving.load_model(path))) for path in arguments["faults"]]


def _models(model: Any) -> tuple[Model, Model]:
    return _model(in_double(model), "float64"), _model(model, "float32")


def _model(model: Any, dtype: str) -> Model:
    def run(inputs: Inputs) -> list[Array]:
        given = [np.array(a, dtype=dtype if a.dtype.kind == "f" else a.dtype) for a in inputs.values()]
        answer = model(given[0] if len(given) == 1 else given, training=False)
        return [np.asarray(one) for one in (answer if isinstance(answer, (list, tuple)) else [answer])]

    return run
