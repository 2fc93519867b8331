"""`torch.export` with the dynamic dimensions of an interface, in the ways known to work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from registry_export.entities import Attempt
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._torch.calls import first_line, flatten, without_deprecations
from registry_export_plugins._torch.modules import TorchAdapter, to_tensor
from registry_export_plugins._torch.plain import no_fast_path
from registry_export_plugins._torch.programs import ProgramCall


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


def export_program(adapter: TorchAdapter, request: ConversionRequest) -> Exported:
    """Capture a module as a program whose named dimensions are dynamic where it allows that.

    Named dimensions first, because they tie equal sizes together and fail where one is fixed; then
    dimensions that the exporter may fix. A recurrent layer is captured as a loop only when needed: a
    loop is slower than the layer, but does not fix the sequence's length.

    Raises:
        UnsupportedModelError: The module's control flow depends on its data, or an operator has no trace.
    """
    attempts: list[Attempt] = []
    best: tuple[torch.export.ExportedProgram, tuple[str, ...]] | None = None
    failure: Exception | None = None
    for way, shapes, surroundings in _ways(adapter, request):
        try:
            with surroundings():
                program = _export(adapter, trace_inputs(request), shapes)
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
        raise _refused(attempts, failure) from failure
    return Exported(best[0], tuple(attempts), best[1])


def _export(adapter: TorchAdapter, inputs: tuple[torch.Tensor, ...], shapes: Any) -> torch.export.ExportedProgram:
    with torch.no_grad(), no_fast_path(), without_deprecations():
        return torch.export.export(adapter, inputs, dynamic_shapes=shapes, strict=False)


Way = tuple[str, Any, Callable[[], contextlib.AbstractContextManager[None]]]


def _ways(adapter: TorchAdapter, request: ConversionRequest) -> Iterator[Way]:
    recurrent = any(isinstance(module, torch.nn.RNNBase) for module in adapter.modules())
    named, automatic = _named_shapes(request), _automatic_shapes(request)
    if not any(automatic):
        yield "torch.export", None, contextlib.nullcontext
        return
    yield "torch.export, named dimensions", named, contextlib.nullcontext
    if recurrent:
        yield "torch.export, named dimensions, recurrent layers as loops", named, _recurrent_loops
    yield "torch.export, automatic dimensions", automatic, contextlib.nullcontext
    if recurrent:
        yield "torch.export, automatic dimensions, recurrent layers as loops", automatic, _recurrent_loops


def _named_shapes(request: ConversionRequest) -> tuple[dict[int, Any], ...]:
    dims: dict[str, Any] = {}
    shapes = []
    for spec in request.interface.inputs:
        axes = {axis: name for axis, name in enumerate(spec.shape or ()) if isinstance(name, str)}
        for name in axes.values():
            dims.setdefault(name, torch.export.Dim(name if name.isidentifier() else f"dim_{len(dims)}"))
        shapes.append({axis: dims[name] for axis, name in axes.items()})
    return tuple(shapes)


def _automatic_shapes(request: ConversionRequest) -> tuple[dict[int, Any], ...]:
    return tuple(
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape or ()) if isinstance(size, str)}
        for spec in request.interface.inputs
    )


@contextlib.contextmanager
def _recurrent_loops() -> Iterator[None]:
    from torch.export import _patches

    cells = [cell for cell in ("lstm", "gru") if hasattr(_patches, f"register_{cell}_while_loop_decomposition")]
    operators = [getattr(torch.ops.aten, cell).input for cell in cells]
    with contextlib.ExitStack() as stack:
        for cell in cells:
            stack.enter_context(getattr(_patches, f"register_{cell}_while_loop_decomposition")())
        # An operator that has been called before keeps the kernel that it found then.
        for operator in operators:
            operator._dispatch_cache.clear()
        try:
            yield
        finally:
            for operator in operators:
                operator._dispatch_cache.clear()


def _fixed(program: torch.export.ExportedProgram, request: ConversionRequest) -> tuple[str, ...]:
    found = ProgramCall(program, request.interface).inputs
    return tuple(
        f"{wanted} of {spec.name}"
        for spec, own in zip(request.interface.inputs, found, strict=True)
        for wanted, size in zip(spec.shape or (), own.shape or (), strict=False)
        if isinstance(wanted, str) and isinstance(size, int)
    )


def _refused(attempts: list[Attempt], failure: Exception | None) -> ConversionError:
    if failure is not None and depends_on_data(failure):
        return UnsupportedModelError(
            f"torch.export cannot follow control flow that depends on data: {attempts[0].error}",
            remedy="Write the branch with torch.where or torch.cond, or export torchscript with method=script.",
        )
    return ConversionError(f"torch.export refused the model: {attempts[0].error}")


def depends_on_data(error: Exception) -> bool:
    """Say whether a capture failed because Python control flow depends on a tensor's values."""
    return "datadependent" in f"{type(error).__name__} {error}".lower().replace("-", "").replace(" ", "")
