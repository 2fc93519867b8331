"""From PyTorch to ONNX: the order in which two exporters are tried, and what is believed of their output.

The exporter on `torch.export` comes first where it reaches the opset. The older one, on TorchScript, comes first for
recurrent layers, which the newer one writes for one length where the sequence is the first axis, and it is the way
for models whose Python control flow depends on data, which it keeps once they are compiled.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from onnx import ModelProto

from registry_export.entities import Attempt, Interface
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest, ConversionResult
from registry_export_plugins._onnx.candidates import Wanted
from registry_export_plugins._onnx.exporters import (
    PROGRAM_OPSET,
    TRANSLATION_TABLE,
    Draft,
    program_to_onnx,
    script_to_onnx,
)
from registry_export_plugins._onnx.files import interface_of
from registry_export_plugins._onnx.finishing import deliver, settle
from registry_export_plugins._onnx.operators import reason_of
from registry_export_plugins._onnx.runner import problem_when_loaded
from registry_export_plugins._torch.export import depends_on_data, export_program, left_out, trace_inputs
from registry_export_plugins._torch.modules import TorchAdapter
from registry_export_plugins._torch.plain import written_out
from registry_export_plugins._torch.tracing import program_module, script, trace, unrolled

_RECURRENT = (
    torch.ops.aten.lstm.input,
    torch.ops.aten.gru.input,
    torch.ops.aten.rnn_tanh.input,
    torch.ops.aten.rnn_relu.input,
)


class Way(Protocol):
    """One way to a model: returns it with notes for the report; raises whatever the exporter raises."""

    def __call__(self, request: ConversionRequest, opset: int) -> tuple[Draft, tuple[str, ...]]:
        """Export; `opset` is the one wanted in the end."""
        ...


def from_torch_module(
    model: TorchAdapter, output: Path, request: ConversionRequest, wanted: Wanted
) -> ConversionResult:
    """Export a module; see the module's docstring for the order of the ways.

    Args:
        model: The module, taking the interface's inputs in order.
        output: The file to write.
        request: The conversion's request.
        wanted: What the file is to be; its opset is a number.

    Raises:
        UnsupportedModelError: Control flow depends on data, and the source cannot be compiled.
        ConversionError: No way worked; says how each failed.
    """
    ways: list[tuple[str, Way]] = [
        ("torch.onnx on torch.export", lambda request, _: (_through_program(model, request), ())),
        ("torch.onnx on TorchScript", lambda request, opset: _through_script(model, request, opset)),
    ]
    recurrent = any(isinstance(module, torch.nn.RNNBase) for module in model.modules())
    return _first_that_works(
        _ordered(ways, recurrent, request, wanted), output, request, wanted, left_out(model, request)
    )


def from_exported_program(model: Any, output: Path, request: ConversionRequest, wanted: Wanted) -> ConversionResult:
    """Export a `torch.export` program. Arguments and errors as for `from_torch_module`."""
    ways: list[tuple[str, Way]] = [
        ("torch.onnx on the program", lambda request, _: (program_to_onnx(model, request), ())),
        ("torch.onnx on a trace of the program", lambda request, opset: _through_trace(model, request, opset)),
    ]
    recurrent = any(node.target in _RECURRENT for node in model.graph.nodes)
    return _first_that_works(_ordered(ways, recurrent, request, wanted), output, request, wanted)


def from_torchscript(model: Any, output: Path, request: ConversionRequest, wanted: Wanted) -> ConversionResult:
    """Export TorchScript. Arguments and errors as for `from_torch_module`."""

    def way(request: ConversionRequest, opset: int) -> tuple[Draft, tuple[str, ...]]:
        return script_to_onnx(model, request, opset), ()

    return _first_that_works([("torch.onnx on TorchScript", way)], output, request, wanted)


def _ordered(
    ways: Sequence[tuple[str, Way]], recurrent: bool, request: ConversionRequest, wanted: Wanted
) -> Sequence[tuple[str, Way]]:
    """Put the way that is likelier to succeed first; only the exporter on `torch.export` takes a table."""
    if request.options.get(TRANSLATION_TABLE):
        return ways[:1]
    return ways[::-1] if recurrent or _opset(wanted) < PROGRAM_OPSET else ways


def _opset(wanted: Wanted) -> int:
    return wanted.opset or PROGRAM_OPSET


def _first_that_works(
    ways: Sequence[tuple[str, Way]],
    output: Path,
    request: ConversionRequest,
    wanted: Wanted,
    remarks: tuple[str, ...] = (),
) -> ConversionResult:
    """Take the first way that keeps every dimension dynamic; else the one that keeps most of them."""
    opset = _opset(wanted)
    attempts: list[Attempt] = []
    failures: list[Exception] = []
    best: tuple[int, Path, tuple[str, ...]] | None = None
    for number, (name, way) in enumerate(ways):
        candidate = request.work / f"way-{number}" / output.name
        candidate.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _quiet():
                draft, notes = way(request, opset)
                model = settle(draft.model, candidate, request.interface, wanted, draft.weights)
        except Exception as error:  # noqa: BLE001  exporters raise whatever the model raises; kept, and chained below
            attempts.append(Attempt(name, _reason(error)))
            failures.append(error)
            continue
        problem = problem_when_loaded(candidate)
        if problem:
            attempts.append(Attempt(name, problem))
            failures.append(ConversionError(problem))
            continue
        fixed = _fixed(model, request.interface)
        attempts.append(Attempt(name, f"it fixes {', '.join(fixed)}" if fixed else ""))
        if best is None or len(fixed) < best[0]:
            best = len(fixed), candidate, notes
        if not fixed:
            break
    if best is None:
        raise _refused(attempts, failures)
    return deliver(best[1], output, wanted, ConversionResult(tuple(attempts), (*remarks, *best[2])))


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, ConversionError) else reason_of(error)


def _refused(attempts: Sequence[Attempt], failures: Sequence[Exception]) -> ConversionError:
    text = "; ".join(f"{attempt.way}: {attempt.error.rstrip('.')}" for attempt in attempts)
    unsupported = any(isinstance(f, UnsupportedModelError) or depends_on_data(f) for f in failures)
    remedies = [failure.remedy for failure in failures if isinstance(failure, ConversionError) and failure.remedy]
    error = (UnsupportedModelError if unsupported else ConversionError)(
        f"No exporter could write the model: {text}.", remedy=remedies[0] if remedies else ""
    )
    error.__cause__ = failures[0]
    return error


def _fixed(model: ModelProto, interface: Interface) -> list[str]:
    return [
        f"{wanted} of {spec.name}"
        for spec, own in zip(interface.inputs, interface_of(model).inputs, strict=True)
        for wanted, size in zip(spec.shape or (), own.shape or (), strict=False)
        if isinstance(wanted, str) and isinstance(size, int)
    ]


def _through_program(model: TorchAdapter, request: ConversionRequest) -> Draft:
    return program_to_onnx(export_program(model, request).program, request)


def _through_script(model: TorchAdapter, request: ConversionRequest, opset: int) -> tuple[Draft, tuple[str, ...]]:
    """Trace; where the trace fixed a decision of the author's, compile the source instead if that is possible."""
    inputs = trace_inputs(request)
    with written_out(opset):
        traced, decisions = trace(model, inputs)
    kept = "" if decisions else unrolled(model, traced, request.interface, inputs)
    if not decisions and not kept:
        return script_to_onnx(traced, request, opset), ()
    why = f"a trace holds for one size of {kept} alone" if kept else "it decides on data"
    try:
        return script_to_onnx(script(model.wrapped), request, opset), (f"Compiled from source: {why}.",)
    except (ConversionError, RuntimeError, ValueError, TypeError):
        return script_to_onnx(traced, request, opset), decisions


def _through_trace(model: Any, request: ConversionRequest, opset: int) -> tuple[Draft, tuple[str, ...]]:
    with written_out(opset):
        traced, decisions = trace(program_module(model, request.interface), trace_inputs(request))
    return script_to_onnx(traced, request, opset), decisions


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' prints off standard output and their deprecations out of the report."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
