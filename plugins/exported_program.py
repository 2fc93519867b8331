"""`torch.export` programs (`.pt2`): what MLflow 3 logs a PyTorch model as, and a target for the others.

Source: https://pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.entities import Attempt, Description, Interface, OptionValue, RuntimeNeed, Snippet
from registry_export.errors import ConversionError
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    NO_SETUP,
    TORCH_MODULE,
    TORCHSCRIPT,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    ModelSetup,
    Runner,
)
from registry_export_plugins._snippets import in_a_row, snippet, tensor
from registry_export_plugins._toolchains import TORCH
from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins._torch.precision import PRECISION, scripts_keep_types

if TYPE_CHECKING:
    from registry_export_plugins._torch.pruning import Pruned


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import export_program, left_out
    from registry_export_plugins._torch.rounding import rounded

    exported = export_program(rounded(model, request), request)
    _save(exported.program, output)
    return ConversionResult(exported.attempts, left_out(model, request))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    asked = request.options.get(DYNAMIC_DIMENSIONS.name)
    if request.options[PRECISION.name] != PRECISION.default:
        return _rounded(model, output, request)
    _save(model, output)
    notes = ("A program's dimensions are as it was logged: dynamic_dimensions cannot add to them.",) if asked else ()
    return ConversionResult((Attempt("torch.export.save"),), notes)


def _rounded(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import export_program
    from registry_export_plugins._torch.programs import flat_module
    from registry_export_plugins._torch.rounding import rounded

    exported = export_program(rounded(flat_module(model, request.interface), request), request)
    _save(exported.program, output)
    return ConversionResult(exported.attempts)


def _from_torchscript(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import export_program
    from registry_export_plugins._torch.tracing import captured

    exported = export_program(captured(model, request), request)
    _save(exported.program, output)
    return ConversionResult((Attempt("PyTorch's converter from TorchScript"), *exported.attempts))


def _save(program: Any, output: Path) -> None:
    import torch

    # Stack traces name the files of the machine that traced; without them equal models are equal files.
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    program._example_inputs = None
    try:
        torch.export.save(program, str(output))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError) as error:
        raise ConversionError(f"torch.export.save refused the program: {error}") from error


class ExportedProgram:
    """The format `exported_program`; see `registry_export.format.Format` for what its members mean."""

    name = "exported_program"
    summary = "torch.export program (.pt2)"
    extra = "exported_program"
    requirements = ("torch",)
    toolchain = TORCH
    kind = EXPORTED_PROGRAM
    filename = "model.pt2"
    options = (DYNAMIC_DIMENSIONS, PRECISION)
    conversions = (
        Conversion(TORCH_MODULE, _from_torch_module, TORCH, cost=2.0),
        Conversion(EXPORTED_PROGRAM, _from_exported_program, TORCH, cost=0.5),
        Conversion(TORCHSCRIPT, _from_torchscript, TORCH, cost=2.5, accepts=scripts_keep_types),
    )
    verified_by = "PyTorch on the CPU"
    setup = ("wrapper", "pruning")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the program of the flavor `pytorch`, or of plain files; a pickled module beside it takes its place."""
        path = checkpoint_file(folder, flavors, Content.PROGRAM)
        if path is None and flavors:  # what MLflow logged as a program and cannot be recognised, loading it will name
            damaged = checkpoint_file(folder, flavors, Content.OTHER)
            return damaged if damaged is not None and damaged.suffix == ".pt2" else None
        return path

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Load a `torch.export.ExportedProgram`; a rule's wrapper is captured around it."""
        return self._loaded(path, setup)[0]

    def _loaded(self, path: Path, setup: ModelSetup) -> tuple[Any, Pruned | None]:
        from registry_export_plugins._torch.programs import load_program

        program, pruned = load_program(path), None
        if setup.pruning is not None:
            from registry_export_plugins._torch.pruning import prune_program

            pruned = prune_program(program, setup.pruning)
        if not setup.wrapper:
            return program, pruned
        from registry_export_plugins._torch.wrapping import wrapped_program

        return wrapped_program(program, setup), pruned

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load a program for inference; its own guards refuse sizes that it was not made for."""
        from registry_export_plugins._torch.modules import TorchRunner
        from registry_export_plugins._torch.programs import ProgramCall

        interface = Interface(inputs=()) if setup.wrapper else interface  # the wrapper's own names
        program, pruned = self._loaded(path, setup)
        call = ProgramCall(program, interface)
        runner = TorchRunner(call, Interface(call.inputs, interface.outputs), "torch.export, torch")
        runner.tell_pruned(pruned)
        yield runner

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs, dynamic dimensions and precision from the program."""
        from registry_export_plugins._torch.modules import precision_of
        from registry_export_plugins._torch.programs import load_outline, program_interface

        program = load_outline(path)
        tensors = (*program.state_dict.values(), *program.constants.values())
        return Description(
            program_interface(program),
            format_version=_schema_version(path),
            precision=precision_of(tensors),
            details={"nodes": str(len(program.graph.nodes))},
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show PyTorch in Python."""
        python = """
            import torch

            model = torch.export.load("model.pt2").module()
            with torch.inference_mode():
                outputs = model(«inputs»)
        """
        return (snippet("Python", "PyTorch", python, inputs=in_a_row(description.interface, tensor)),)

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say that PyTorch promises a program to the version that saved it alone."""
        from registry_export_plugins._compatibility import installed_version

        version = installed_version("torch").partition("+")[0]
        text = f"PyTorch {version}; newer and older ones where their program schema has the same major number"
        return (RuntimeNeed("torch", text),) if version else ()

    def inspect(self, path: Path) -> Inside:
        """Read the program's weights, constants and calls."""
        from registry_export_plugins._torch.contents import of_program
        from registry_export_plugins._torch.programs import load_program

        return of_program(load_program(path), path)


def _schema_version(path: Path) -> str | None:
    """Read the version of the program's schema, `torch._export.serde.schema.SCHEMA_VERSION`.

    The archive around it has a version too, which has stayed 0.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if entry.endswith("models/model.json"):
                version = json.loads(archive.read(entry)).get("schema_version", {})
                return f"{version['major']}.{version['minor']}" if version else None
    return None
