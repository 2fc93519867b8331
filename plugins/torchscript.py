"""TorchScript: a PyTorch model that runs without Python.

Source: https://pytorch.org/docs/stable/jit.html
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Attempt, Description, Interface, OptionValue
from registry_export.errors import ConversionError, SourceError, UnsupportedModelError, VerificationError
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Option,
    Runner,
)
from registry_export_plugins._toolchains import TORCH
from registry_export_plugins._torch.files import is_torchscript, pytorch_file

METHOD = Option("method", str, "trace", "{value}", choices=("trace", "script"), help="record calls, or compile source")
FREEZE = Option("freeze", bool, False, "frozen", help="inline the weights as constants")


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace or compile; a trace that fixed a decision of the author's gives way to the compiled source."""
    from registry_export_plugins._torch.export import left_out, trace_inputs
    from registry_export_plugins._torch.tracing import script, trace

    if request.options[METHOD.name] == "script":
        return _save(script(model.wrapped), output, request, (Attempt("torch.jit.script"),))
    remarks = left_out(model, request)
    traced, decisions = trace(model, trace_inputs(request))
    if not decisions:
        return _save(traced, output, request, (Attempt("torch.jit.trace"),), remarks)
    try:
        compiled = script(model.wrapped)
    except UnsupportedModelError as error:
        attempts = (Attempt("torch.jit.script", error.message), Attempt("torch.jit.trace"))
        return _save(traced, output, request, attempts, (*remarks, *decisions))
    given_up = Attempt("torch.jit.trace", " ".join(decisions))
    note = "Compiled from its source: a trace would have kept only one branch of a decision on data."
    return _save(compiled, output, request, (given_up, Attempt("torch.jit.script")), (note,))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import trace_inputs
    from registry_export_plugins._torch.tracing import program_module, trace

    traced, notes = trace(program_module(model, request.interface), trace_inputs(request))
    return _save(traced, output, request, (Attempt("torch.jit.trace of the program"),), notes)


def _from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    return _save(model, output, request, (Attempt("torch.jit.save"),))


def _save(
    module: Any,
    output: Path,
    request: ConversionRequest,
    attempts: tuple[Attempt, ...],
    notes: tuple[str, ...] = (),
) -> ConversionResult:
    import torch

    from registry_export_plugins._torch.calls import without_deprecations

    try:
        with without_deprecations():
            if request.options[FREEZE.name]:
                module = torch.jit.freeze(module.eval())
            torch.jit.save(module, str(output))
    except RuntimeError as error:
        raise ConversionError(f"TorchScript could not be frozen or saved: {error}") from error
    return ConversionResult(attempts, notes)


def _traced_only(options: Mapping[str, OptionValue]) -> str:
    return "a program has no source to compile, so method=script needs a pickled module" if _scripts(options) else ""


def _scripts(options: Mapping[str, OptionValue]) -> bool:
    return options.get(METHOD.name) == "script"


class TorchScript:
    """The format `torchscript`; see `registry_export.format.Format` for what its members mean."""

    name = "torchscript"
    summary = "TorchScript module (.pt)"
    extra = "torchscript"
    requirements = ("torch",)
    toolchain = TORCH
    kind = TORCHSCRIPT
    filename = "model.pt"
    options = (METHOD, FREEZE, DYNAMIC_DIMENSIONS)
    conversions = (
        Conversion(TORCH_MODULE, _from_torch_module, TORCH, cost=1.0),
        Conversion(EXPORTED_PROGRAM, _from_exported_program, TORCH, cost=1.5, accepts=_traced_only),
        Conversion(TORCHSCRIPT, _from_torchscript, TORCH, cost=0.5),
    )
    verified_by = "PyTorch on the CPU"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a TorchScript file where MLflow's flavor `pytorch` puts it, or in a plain folder."""
        names = ("model.pth",) if flavors else (self.filename, "model.pth", "model.pt")
        paths = [path for name in names if (path := pytorch_file(folder, flavors, name)) is not None]
        return next((path for path in paths if is_torchscript(path)), None)

    def load(self, path: Path, interface: Interface) -> Any:
        """Load a `torch.jit.ScriptModule` in evaluation mode, on the CPU."""
        import torch

        from registry_export_plugins._torch.calls import without_deprecations

        try:
            with without_deprecations():
                module = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            raise SourceError(f"{path.name} cannot be read as TorchScript: {error}") from error
        return module.eval()

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a module for inference."""
        from registry_export_plugins._torch.modules import TorchRunner, adapt

        adapter = adapt(self.load(path, interface), interface)
        yield TorchRunner(adapter.call, replace(interface, inputs=adapter.inputs), "TorchScript, torch")

    def describe(self, path: Path) -> Description:
        """Read the names of the inputs, the precision and the archive's version; TorchScript knows no shapes."""
        from registry_export_plugins._torch.modules import adapt, precision

        module = self.load(path, Interface(inputs=()))
        inputs = adapt(module, Interface(inputs=())).inputs
        with zipfile.ZipFile(path) as archive:
            versions = [archive.read(name).decode().strip() for name in archive.namelist() if name.endswith("/version")]
        if not versions:
            raise VerificationError(f"{path.name} is no TorchScript archive: it has no version.")
        return Description(Interface(inputs), format_version=versions[0], precision=precision(module))
