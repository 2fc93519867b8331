"""PyTorch's two exporters to ONNX, each called as it wants to be, and what they leave.

The exporter on `torch.export` (`dynamo=True`) writes opset 18; the older one on TorchScript (`dynamo=False`)
writes 7 to 20. Other opsets are reached with a converter afterwards.

Source: https://pytorch.org/docs/stable/onnx.html
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from registry_export.entities import Interface, TensorSpec
from registry_export.format import ConversionRequest
from registry_export_plugins._onnx.files import gathered, read, read_in_part, size_of
from registry_export_plugins._onnx.libraries import translation_table
from registry_export_plugins._onnx.operators import refused_operator
from registry_export_plugins._onnx.opsets import is_heavy
from registry_export_plugins._torch.calls import bind
from registry_export_plugins._torch.export import trace_inputs
from registry_export_plugins._torch.programs import ProgramCall

TRANSLATION_TABLE = "custom_translation_table"
PROGRAM_OPSET = 18
"""What the exporter on `torch.export` implements natively."""
SCRIPT_OPSETS = (7, 20)
"""What the exporter on TorchScript implements natively."""


@dataclass(frozen=True)
class Draft:
    """A model as an exporter left it.

    Attributes:
        model: The graph, with all weights, or with the small ones alone.
        weights: The file that it was read from in part, with the large weights beside it; None: all are in `model`.
    """

    model: ModelProto
    weights: Path | None = None


def program_to_onnx(program: Any, request: ConversionRequest) -> Draft:
    """Write a `torch.export` program with the exporter on it; raises whatever a translation raises."""
    interface, table = request.interface, translation_table(request.options.get(TRANSLATION_TABLE))
    call = ProgramCall(program, interface)
    names = {position: spec.name for position, spec in zip(call.order, interface.inputs, strict=True)}
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=PROGRAM_OPSET,
            input_names=[names[position] for position in range(len(names))],
            output_names=[spec.name for spec in interface.outputs] or None,
            external_data=False,
            verbose=False,
            custom_translation_table=table or None,
        )
    except Exception as error:  # it raises whatever a translation raises
        refused = refused_operator(error, program)
        if refused is None:
            raise
        raise refused from error
    draft = _drafted(exported, request.work / "program" / "model.onnx")
    _fix_sizes(draft.model, call.inputs, interface)
    return draft


def _drafted(exported: Any, file: Path) -> Draft:
    """Take what the exporter made; large weights go from PyTorch's memory straight to the disk."""
    if not is_heavy(sum(_stored_bytes(value) for value in exported.model.graph.initializers.values())):
        return Draft(exported.model_proto)
    file.parent.mkdir(exist_ok=True)
    exported.save(str(file), external_data=True)
    return Draft(read_in_part(file), file)


def _stored_bytes(value: Any) -> int:
    return int(value.const_value.nbytes) if value.const_value is not None else 0


def _fix_sizes(model: ModelProto, specs: Sequence[TensorSpec], interface: Interface) -> None:
    """Write the sizes that a program has fixed: the exporter leaves some of them symbolic."""
    values = {value.name: value for value in model.graph.input}
    for spec, named in zip(specs, interface.inputs, strict=True):
        value = values.get(named.name)
        dims = value.type.tensor_type.shape.dim if value is not None else ()
        for dim, size in zip(dims, spec.shape or (), strict=False):
            if isinstance(size, int):
                dim.dim_value = size


def script_to_onnx(module: torch.jit.ScriptModule, request: ConversionRequest, opset: int) -> Draft:
    """Write TorchScript with the older exporter, in the opset nearest to the one wanted that it knows."""
    interface = request.interface
    binding = bind(module, interface)
    args, kwargs = binding.arguments(trace_inputs(request))
    order = (*binding.positional, *(position for _, position in binding.keywords))
    native = min(max(opset, SCRIPT_OPSETS[0]), SCRIPT_OPSETS[1])
    # Beyond 2 GiB the exporter writes weights beside the file, and a file it must be.
    file = request.work / "script" / "model.onnx"
    shutil.rmtree(file.parent, ignore_errors=True)  # weights of an attempt before
    file.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        module,
        (*args, kwargs) if kwargs else args,
        str(file),
        dynamo=False,
        opset_version=native,
        input_names=[interface.inputs[position].name for position in order],
        output_names=[spec.name for spec in interface.outputs],
        dynamic_axes=_dynamic_axes(interface),
        verbose=False,
    )
    if not is_heavy(size_of(file)):
        return Draft(read(file))
    whole = gathered(file, request.work / "gathered" / file.name)
    return Draft(read_in_part(whole), whole)


def _dynamic_axes(interface: Interface) -> dict[str, dict[int, str]]:
    axes = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape or ()) if isinstance(size, str)}
        for spec in (*interface.inputs, *interface.outputs)
    }
    return {name: sizes for name, sizes in axes.items() if sizes}
