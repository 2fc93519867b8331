"""`torch.export` with the dynamic dimensions of an interface, in the ways known to work."""

from __future__ import annotations

import contextlib
import linecache
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from registry_export.entities import Attempt
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._torch.calls import first_line, flatten, without_deprecations
from registry_export_plugins._torch.modules import TorchAdapter, to_tensor
from registry_export_plugins._torch.plain import no_fast_path
from registry_export_plugins._torch.programs import ProgramCall
from registry_export_plugins._torch.recurrent import RECURRENT, loops

_TORCH = Path(torch.__file__).parent
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Exported:
    """A program and how it was got.

    Attributes:
        program: The program.
        attempts: What was tried, in order.
        fixed: Dimensions of the interface that the program has fixed, as `batch of x`.
    """

    program: torch.export.ExportedProgram
    attempts: tuple[Attempt, ...]
    fixed: tuple[str, ...]


def trace_inputs(request: ConversionRequest) -> tuple[torch.Tensor, ...]:
    """Return the request's samples as tensors, in the order of the interface."""
    return tuple(to_tensor(request.samples[spec.name]) for spec in request.interface.inputs)


def left_out(adapter: TorchAdapter, request: ConversionRequest) -> tuple[str, ...]:
    """Say what of the module's own answers is in no export.

    That is what is no tensor, and the zeros that fused transformer layers write at padded positions.
    """
    inputs = trace_inputs(request)
    with torch.no_grad():
        own = flatten(adapter.call(inputs))
        remarks = (f"Left out of the outputs, being no tensor: {', '.join(own.dropped)}.",) if own.dropped else ()
        if not any(isinstance(module, torch.nn.TransformerEncoder) for module in adapter.modules()):
            return remarks
        with no_fast_path():
            plain = flatten(adapter.call(inputs))
    if all(_close(a, b) for a, b in zip(own.tensors, plain.tensors, strict=True)):
        return remarks
    return (*remarks, _ZEROED)


_ZEROED = (
    "In evaluation mode PyTorch's fused nn.TransformerEncoder sets padded positions to zero, which changes this "
    "model's outputs and which no export does. Build the encoder with enable_nested_tensor=False, or keep padded "
    "positions out of the result, and log the model again."
)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)


def export_program(adapter: torch.nn.Module, request: ConversionRequest) -> Exported:
    """Capture a module as a program whose named dimensions are dynamic where it allows that.

    Named dimensions first, because they tie equal sizes together and fail where one is fixed; then
    dimensions that the exporter may fix; then, where all of that is refused, the strict mode, which reads
    the author's byte code. A recurrent layer is captured as a loop only when needed: a loop is slower than
    the layer, but does not fix the sequence's length.

    Args:
        adapter: Takes one tensor per input of the request's interface, and returns a tuple of tensors.
        request: Its samples are what is captured with.

    Raises:
        UnsupportedModelError: The module's control flow depends on its data, or an operator has no trace.
    """
    attempts: list[Attempt] = []
    best: tuple[torch.export.ExportedProgram, tuple[str, ...]] | None = None
    failure: Exception | None = None
    for way, shapes, surroundings, strict in _ways(adapter, request):
        if strict and best is not None:
            break
        try:
            with surroundings():
                program = _export(adapter, trace_inputs(request), shapes, strict=strict)
        except Exception as error:  # noqa: BLE001  torch.export raises whatever the model raises; kept, and chained below
            attempts.append(Attempt(way, first_line(error)))
            failure = failure or error
            if depends_on_data(error):
                break
            continue
        fixed = _fixed(program, request)
        attempts.append(Attempt(way, f"it fixes {', '.join(fixed)}" if fixed else ""))
        if best is None or len(fixed) < len(best[1]):
            best = program, fixed
        if not fixed:
            break
    if best is None:
        raise _refused(attempts, failure, adapter) from failure
    return Exported(best[0], tuple(attempts), best[1])


def _export(
    adapter: torch.nn.Module, inputs: tuple[torch.Tensor, ...], shapes: Any, *, strict: bool
) -> torch.export.ExportedProgram:
    with torch.no_grad(), no_fast_path(), without_deprecations():
        return torch.export.export(adapter, inputs, dynamic_shapes=shapes, strict=strict)


Way = tuple[str, Any, Callable[[], contextlib.AbstractContextManager[None]], bool]
"""What it is called, the dynamic shapes, what it is done within, and whether the strict mode does it."""


def _ways(adapter: torch.nn.Module, request: ConversionRequest) -> Iterator[Way]:
    recurrent = any(_is_recurrent(module) for module in adapter.modules())
    named, automatic = _named_shapes(request), _automatic_shapes(request)
    if not any(automatic):
        yield "torch.export", None, contextlib.nullcontext, False
        yield "torch.export, strict", None, contextlib.nullcontext, True
        return
    yield "torch.export, named dimensions", named, contextlib.nullcontext, False
    if recurrent:
        yield "torch.export, named dimensions, recurrent layers as loops", named, loops, False
    yield "torch.export, automatic dimensions", automatic, contextlib.nullcontext, False
    if recurrent:
        yield "torch.export, automatic dimensions, recurrent layers as loops", automatic, loops, False
    yield "torch.export, strict, automatic dimensions", automatic, contextlib.nullcontext, True


def _is_recurrent(module: torch.nn.Module) -> bool:
    if isinstance(module, torch.fx.GraphModule):
        return any(str(node.target) in RECURRENT for node in module.graph.nodes)
    return isinstance(module, torch.nn.RNNBase)


def _named_shapes(request: ConversionRequest) -> tuple[dict[int, Any], ...]:
    dims: dict[str, Any] = {}
    shapes = []
    for spec in request.interface.inputs:
        axes = {axis: name for axis, name in enumerate(spec.shape or ()) if isinstance(name, str)}
        for name in axes.values():
            # A size that is the sum of others has no name of its own: the exporter finds the sum.
            dim = torch.export.Dim.AUTO if " + " in name else None
            dims.setdefault(name, dim or torch.export.Dim(name if name.isidentifier() else f"dim_{len(dims)}"))
        shapes.append({axis: dims[name] for axis, name in axes.items()})
    return tuple(shapes)


def _automatic_shapes(request: ConversionRequest) -> tuple[dict[int, Any], ...]:
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape or ()) if isinstance(size, str)}
        for spec in request.interface.inputs
    )


def _fixed(program: torch.export.ExportedProgram, request: ConversionRequest) -> tuple[str, ...]:
    found = ProgramCall(program, request.interface).inputs
    return tuple(
        f"{wanted} of {spec.name}"
        for spec, own in zip(request.interface.inputs, found, strict=True)
        for wanted, size in zip(spec.shape or (), own.shape or (), strict=False)
        if isinstance(wanted, str) and isinstance(size, int)
    )


def _refused(attempts: list[Attempt], failure: Exception | None, adapter: torch.nn.Module) -> ConversionError:
    if failure is not None and depends_on_data(failure):
        place = place_of(failure, adapter)
        return UnsupportedModelError(
            f"torch.export cannot follow control flow that depends on data{place and f', {place}'}: "
            f"{attempts[0].error}",
            remedy="Write the branch with torch.where or torch.cond, or export torchscript with method=script.",
        )
    return ConversionError(f"torch.export refused the model: {attempts[0].error}")


def place_of(error: BaseException, model: torch.nn.Module) -> str:
    """Say where in a model an error arose: the module's path, the line and its source; empty if it was elsewhere."""
    names = {id(module): name.removeprefix("wrapped").removeprefix(".") for name, module in model.named_modules()}
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module, file = frame.f_locals.get("self"), frame.f_code.co_filename
        if id(module) in names and module is not model and not {_TORCH, _HERE} & {*Path(file).parents}:
            path = f"in module {names[id(module)]}" if names[id(module)] else "in the model's own code"
            found = f"{path}, line {line} of {Path(file).name} (`{linecache.getline(file, line).strip()}`)"
    return found


def depends_on_data(error: Exception) -> bool:
    """Say whether a capture failed because Python control flow depends on a tensor's values."""
    return "datadependent" in f"{type(error).__name__} {error}".lower().replace("-", "").replace(" ", "")
