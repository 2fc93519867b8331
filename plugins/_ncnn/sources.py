"""Models as pnnx takes them: traced TorchScript with weights of its own at every use, or one ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import ConversionError
from registry_export.format import Array, ConversionRequest
from registry_export_plugins._ncnn.convert import Prepared, traced_sizes
from registry_export_plugins._sizes import resized

_DEEPEST = 3
"""Modules named at most for one operator."""


def from_adapter(module: Any, request: ConversionRequest, notes: tuple[str, ...] = ()) -> Prepared:
    """Trace a module that takes and returns tensors in the interface's order, for one row.

    Raises:
        ConversionError: It cannot be traced.
    """
    import torch

    from registry_export_plugins._torch.calls import without_deprecations
    from registry_export_plugins._torch.modules import to_array, to_tensor
    from registry_export_plugins._torch.tracing import trace

    interface = request.interface
    arrays = resized(request, traced_sizes(request))
    with _untied(module):
        traced, decisions = trace(module, [to_tensor(arrays[spec.name]) for spec in interface.inputs])
    file = request.work / "traced.pt"
    with without_deprecations():
        torch.jit.save(traced, str(file))

    def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            results = module(*(to_tensor(inputs[spec.name]) for spec in interface.inputs))
        return {spec.name: to_array(t) for spec, t in zip(interface.outputs, results, strict=True)}

    return Prepared(file, interface.inputs, interface.outputs, reference, _scopes(traced), (*notes, *decisions))


@contextmanager
def _untied(module: Any) -> Iterator[None]:
    """Give every layer weights of its own for a while: pnnx mistakes a shared one for an input of its layer."""
    import torch

    seen: set[int] = set()
    tied: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) in seen:
                tied.append((part._parameters, name, parameter))
            seen.add(id(parameter))
    for parameters, name, parameter in tied:
        parameters[name] = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
    try:
        yield
    finally:
        for parameters, name, parameter in tied:
            parameters[name] = parameter


def _scopes(traced: Any) -> Mapping[str, Sequence[str]]:
    """Return, for each operator of a trace, the modules that call it."""
    found: dict[str, list[str]] = {}
    for node in traced.inlined_graph.nodes():
        scope = node.scopeName().rpartition("__module.")[2].removeprefix("wrapped").lstrip(".")
        modules = found.setdefault(node.kind().rpartition("::")[2].lower(), [])
        if scope and scope not in modules and len(modules) < _DEEPEST:
            modules.append(scope)
    return found


def from_onnx(path: Path, request: ConversionRequest) -> Prepared:
    """Put an ONNX model into one file; ONNX Runtime answers for it.

    Raises:
        ConversionError: Its weights do not fit into one file.
    """
    import onnx

    from registry_export_plugins._onnx.files import interface_of, read
    from registry_export_plugins._onnx.opsets import LARGEST_IN_ONE_FILE, weight_bytes
    from registry_export_plugins._onnx.runner import OnnxRunner

    model = read(path)
    if weight_bytes(model) > LARGEST_IN_ONE_FILE:
        raise ConversionError("pnnx reads one ONNX file, and these weights do not fit into one.")
    file = request.work / "source.onnx"
    onnx.save(model, str(file))
    own = interface_of(model)
    runner = OnnxRunner(path, request.interface)

    def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(array) for name, array in runner.infer(inputs).items()}

    return Prepared(
        file,
        _in_own_order(own.inputs, request.interface.inputs),
        _in_own_order(own.outputs, request.interface.outputs),
        reference,
        {},
    )


def _in_own_order(own: Sequence[TensorSpec], wanted: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Put specs in the order of a file: by name where the names are the same, else by position."""
    by_name = {spec.name: spec for spec in wanted}
    if set(by_name) == {spec.name for spec in own}:
        return tuple(by_name[spec.name] for spec in own)
    return tuple(wanted)


def from_program(program: Any, interface: Interface, request: ConversionRequest) -> Prepared:
    """Trace a `torch.export` program.

    Raises:
        UnsupportedModelError: It contains control flow.
    """
    from registry_export_plugins._torch.tracing import program_module

    return from_adapter(program_module(program, interface), request)
