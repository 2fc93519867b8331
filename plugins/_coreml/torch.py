"""From PyTorch to Core ML: the ways that are tried, in order.

A trace first: coremltools translates it best, recurrent layers included. Where the trace has fixed a
decision on data, the module's source is compiled instead, which keeps the decision. Then the program of
`torch.export`, decomposed to the core ATen operators, which knows some operators that a trace does not.

Source: https://apple.github.io/coremltools/docs-guides/source/convert-pytorch-workflow.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry_export.entities import Attempt, Interface, TensorSpec
from registry_export.errors import ConversionError, RegistryExportError, UnsupportedModelError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._coreml.conditions import conditions_as_selections, select_branches
from registry_export_plugins._coreml.convert import (
    call_converter,
    has_half,
    input_features,
    input_types,
    missing_operator,
    output_types,
    refused,
    renamed_interface,
    save,
)
from registry_export_plugins._coreml.names import features
from registry_export_plugins._coreml.operators import register_torch_operators
from registry_export_plugins._coreml.structure import check
from registry_export_plugins._torch.calls import flatten
from registry_export_plugins._torch.export import export_program, left_out, trace_inputs
from registry_export_plugins._torch.modules import adapt, with_argument_names
from registry_export_plugins._torch.tracing import program_module, script, trace

Way = tuple[str, Callable[[], tuple[Any, tuple[str, ...]]]]
"""What a try is called, and what makes the model for coremltools with notes for the report."""


class PortableModule(torch.nn.Module):
    """Calls a module with tensors of the element types that Core ML's inputs and outputs may have.

    Args:
        module: Takes one tensor per input, in order; returns tensors, nested in any way.
        inputs: The source's inputs: their own element types and shapes.
        half: Whether float16 may go in and out.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[TensorSpec], half: bool) -> None:
        super().__init__()
        self.module = module
        self._inputs = tuple((getattr(torch, spec.dtype), spec.shape == ()) for spec in inputs)
        self._half = half
        self._repeated: frozenset[int] = frozenset()
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on one tensor per input and return one tensor per output, each with an axis at least."""
        own = [
            (tensor.reshape(()) if scalar else tensor).to(dtype)
            for tensor, (dtype, scalar) in zip(tensors, self._inputs, strict=True)
        ]
        results = [self._portable(leaf) for leaf in flatten(self.module(*own)).tensors]
        # A tensor that is returned twice needs an operation of its own to have a second name, and one that
        # coremltools does not optimise away, as it does with copies.
        return tuple(torch.maximum(r, r) if i in self._repeated else r for i, r in enumerate(results))

    def tell_apart(self, outputs: Sequence[torch.Tensor]) -> None:
        """Note which outputs are the same tensor as an earlier one."""
        places = [(tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in outputs]
        self._repeated = frozenset(i for i, place in enumerate(places) if place in places[:i])

    def _portable(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.reshape(1) if tensor.dim() == 0 else tensor
        if tensor.dtype == torch.float32 or (tensor.dtype == torch.float16 and self._half):
            return tensor
        return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int32)


class Source:
    """A PyTorch model on its way: what it is called with, and what its outputs are called.

    Args:
        module: Takes the interface's inputs in order.
        request: The conversion's request.
    """

    def __init__(self, module: torch.nn.Module, request: ConversionRequest) -> None:
        self.request = request
        self.half = has_half(request.options)
        self.inputs = input_features(request)
        self.portable = self.wrap(module)
        with torch.no_grad():
            answers = self.portable(*self.tensors())
        interface = renamed_interface(request, len(answers))
        stored = [str(answer.dtype).removeprefix("torch.") for answer in answers]
        named = features(interface.outputs, self.half, [feature.name for feature in self.inputs])
        self.outputs = tuple(replace(feature, dtype=dtype) for feature, dtype in zip(named, stored, strict=True))

    def wrap(self, module: torch.nn.Module) -> PortableModule:
        """Give a module Core ML's element types, and its arguments the features' names."""
        named: type[PortableModule] = with_argument_names(PortableModule, [feature.name for feature in self.inputs])
        wrapped = named(module, self.request.interface.inputs, self.half)
        with torch.no_grad():
            wrapped.tell_apart(wrapped(*self.tensors()))
        return wrapped

    def stored_request(self) -> ConversionRequest:
        """Return the request as the wrapped module sees it: the features' names and element types."""
        given = self.request.interface.inputs
        specs = tuple(
            TensorSpec(feature.name, feature.dtype, spec.shape or (1,) if spec.shape is not None else None)
            for feature, spec in zip(self.inputs, given, strict=True)
        )
        samples = {
            feature.name: np.atleast_1d(np.asarray(self.request.samples[spec.name])).astype(feature.dtype)
            for feature, spec in zip(self.inputs, given, strict=True)
        }
        return replace(self.request, interface=Interface(specs), samples=samples)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the samples as the wrapped module takes them."""
        return trace_inputs(self.stored_request())


def from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a module; see the module's docstring for the order of the ways.

    Args:
        model: A `TorchAdapter`.
        output: The `.mlpackage` folder to write.
        request: The conversion's request.

    Raises:
        UnsupportedModelError: Core ML cannot express an operator; names it and the layer that uses it.
        ConversionError: No way worked, for another reason.
    """
    source = Source(model, request)
    ways: list[Way] = [("torch.export", lambda: _program(source))]
    earlier: list[tuple[str, RegistryExportError]] = []
    try:
        with conditions_as_selections():
            traced, decisions = trace(source.portable, source.tensors())
    except ConversionError as error:
        earlier.append(("torch.jit.trace", error))
    else:
        last = ("torch.jit.trace", lambda: (traced, decisions))
        if decisions:
            earlier.append(("torch.jit.trace", ConversionError(" ".join(decisions))))
            ways = [("torch.jit.script", lambda: _compiled(model, source)), *ways, last]
        else:
            ways.insert(0, last)
    return _first_that_works(ways, source, output, earlier, left_out(model, request))


def from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert a `torch.export` program: a trace of it first. Arguments and errors as for `from_torch_module`."""
    select_branches(model)
    source = Source(program_module(model, request.interface), request)
    ways: list[Way] = [
        ("torch.jit.trace of the program", lambda: trace(source.portable, source.tensors())),
        ("torch.export of the program", lambda: _program(source)),
    ]
    return _first_that_works(ways, source, output)


def from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Convert TorchScript; its control flow is kept. Arguments and errors as for `from_torch_module`."""
    source = Source(adapt(model, request.interface), request)
    ways: list[Way] = [("TorchScript", lambda: trace(source.portable, source.tensors()))]
    return _first_that_works(ways, source, output)


def _compiled(model: Any, source: Source) -> tuple[Any, tuple[str, ...]]:
    """Compile the author's module; the trace around it keeps the control flow inside."""
    compiled = adapt(script(model.wrapped), source.request.interface)
    traced, _ = trace(source.wrap(compiled), source.tensors())
    return traced, ("Compiled from its source: a trace would have kept only one branch of a decision on data.",)


def _program(source: Source) -> tuple[Any, tuple[str, ...]]:
    """Capture the module with `torch.export`, in core ATen operators but those that coremltools translates well."""
    program = export_program(source.portable, source.stored_request()).program
    table = torch.export.default_decompositions()
    aten = torch.ops.aten
    for kept in (
        *(aten.linear.default, aten.conv2d.default, aten.scaled_dot_product_attention.default, aten.gelu.default),
        *(aten.layer_norm.default, aten.batch_norm.default, aten.adaptive_avg_pool2d.default),
    ):
        table.pop(kept, None)
    return program.run_decompositions(table), ()


def _first_that_works(
    ways: Sequence[Way],
    source: Source,
    output: Path,
    earlier: Sequence[tuple[str, RegistryExportError]] = (),
    remarks: tuple[str, ...] = (),
) -> ConversionResult:
    """Deliver the first package that is sound; `earlier` holds the ways that have failed already."""
    register_torch_operators()
    failed = list(earlier)
    for number, (name, make) in enumerate(ways):
        candidate = source.request.work / f"way-{number}.mlpackage"
        model: Any = None
        try:
            model, notes = make()
            _write(model, source, candidate)
        except RegistryExportError as error:
            failed.append((name, _placed(error, model)))
            continue
        candidate.rename(output)
        attempts = (*(Attempt(way, error.message) for way, error in failed), Attempt(name))
        return ConversionResult(attempts, (*remarks, *notes))
    raise refused(failed)


def _write(model: Any, source: Source, output: Path) -> None:
    declared = input_types(source.inputs, source.stored_request())
    converted = call_converter(model, "pytorch", source.request, inputs=declared, outputs=output_types(source.outputs))
    save(converted, output, source.inputs, source.outputs)
    check(output, source.request.interface)


def _placed(error: RegistryExportError, model: Any) -> RegistryExportError:
    """Name the layers that use the operator that has no translation."""
    operator = missing_operator(error.__cause__ or error)
    if not operator or not isinstance(model, torch.jit.ScriptModule):
        return error
    kinds = {f"aten::{operator}", f"aten::{operator}_", operator}
    nodes = [node for node in model.inlined_graph.nodes() if node.kind() in kinds]
    scopes = (node.scopeName().split("/")[-1].removeprefix("__module.") for node in nodes)
    layers = sorted({scope.removeprefix("module.").removeprefix("wrapped").removeprefix(".") for scope in scopes})
    if not any(layers):
        return error
    placed = UnsupportedModelError(
        f"{error.message.rstrip('.')} (used in {', '.join(layer or 'the model itself' for layer in layers)}).",
        remedy=error.remedy,
    )
    placed.__cause__ = error.__cause__
    return placed
