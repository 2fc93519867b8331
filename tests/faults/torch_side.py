"""PyTorch's nets in a child: written as checkpoints, sound and mutated, and measured against each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from registry_export.tensors import write_tensors
from tests.faults.effects import Array, Inputs, Measure, Model
from tests.faults.mutations import Net
from tests.faults.nets import rows, sequences, tokens, vision

_NETS: dict[str, Net] = vision.NETS | sequences.NETS | tokens.NETS | rows.NETS
FILE = "model.pth"


def build(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write a net's checkpoint, one for each of its faults, and its example; returns what was written."""
    net, folder = _NETS[arguments["net"]], Path(arguments["folder"])
    source = _saved(net.build(), folder / "source")
    faults = []
    for number, fault in enumerate(net.faults):
        path = _saved(fault.plant(net.build()), folder / f"fault-{number}")
        faults.append({"kind": fault.kind, "name": fault.name, "path": path})
    write_tensors(folder / "example", net.inputs)
    return {
        "source": source,
        "example": str(folder / "example"),
        "inputs": [_spec(name, array, net) for name, array in net.inputs.items()],
        "faults": faults,
    }


def _saved(module: torch.nn.Module, folder: Path) -> str:
    folder.mkdir(parents=True)
    torch.save(module.eval(), folder / FILE)
    return str(folder / FILE)


def _spec(name: str, array: np.ndarray, net: Net) -> dict[str, Any]:
    shape = [net.dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(array.shape)]
    return {"name": name, "dtype": array.dtype.name, "shape": ["batch", *shape[1:]]}


def effects(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure mutated checkpoints against the sound one, in float64."""
    net = _NETS[arguments["net"]]
    source = torch.load(arguments["source"], weights_only=False)
    measure = Measure(arguments, net.inputs, *_models(source))
    return [measure.of(*_models(torch.load(path, weights_only=False))) for path in arguments["faults"]]


def _models(module: torch.nn.Module) -> tuple[Model, Model]:
    return _model(copy.deepcopy(module).double(), torch.float64), _model(module, torch.float32)


def _model(module: torch.nn.Module, dtype: torch.dtype) -> Model:
    def run(inputs: Inputs) -> list[Array]:
        given = [torch.from_numpy(np.array(array)) for array in inputs.values()]
        with torch.no_grad():
            answer = module(*(g.to(dtype) if g.is_floating_point() else g for g in given))
        return [leaf.numpy() for leaf in pytree.tree_leaves(answer)]

    return run
