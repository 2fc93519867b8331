"""TorchScript: a PyTorch model that runs without Python.

Source: https://pytorch.org/docs/stable/jit.html
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.entities import Attempt, Description, Interface, OptionValue, Snippet, TensorSpec
from registry_export.errors import ConversionError, SourceError, UnsupportedModelError, VerificationError
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
    Option,
    Runner,
)
from registry_export_plugins._snippets import in_a_row, listed, sizes, snippet, tensor
from registry_export_plugins._toolchains import TORCH
from registry_export_plugins._torch.archives import Content
from registry_export_plugins._torch.files import checkpoint_file
from registry_export_plugins._torch.precision import PRECISION, scripts_keep_types

if TYPE_CHECKING:
    from registry_export_plugins._torch.pruning import Pruned

METHOD = Option("method", str, "trace", "{value}", choices=("trace", "script"), help="record calls, or compile source")
FREEZE = Option("freeze", bool, False, "frozen", help="inline the weights as constants")
OPTIMIZE = Option("optimize_for_inference", bool, False, "optimized", help="fuse and rewrite for the CPU it runs on")
_EXTRA = "registry_export.json"
"""An extra file inside the archive: how it wants to be loaded."""


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    """Trace or compile; a trace that fixed a decision of the author's gives way to the compiled source."""
    from registry_export_plugins._torch.export import left_out, trace_inputs
    from registry_export_plugins._torch.rounding import rounded
    from registry_export_plugins._torch.tracing import script, trace, unrolled

    if request.options[METHOD.name] == "script":
        return _save(script(model.wrapped), output, request, (Attempt("torch.jit.script"),))
    remarks = left_out(model, request)
    inputs, module = trace_inputs(request), rounded(model, request)
    traced, decisions = trace(module, inputs)
    kept = "" if decisions else unrolled(module, traced, request.interface, inputs)
    if not decisions and not kept:
        return _save(traced, output, request, (Attempt("torch.jit.trace"),), remarks)
    try:
        if module is not model:
            raise UnsupportedModelError("Compiled source keeps the types of the checkpoint.")
        compiled = script(model.wrapped)
    except UnsupportedModelError as error:
        attempts = (Attempt("torch.jit.script", error.message), Attempt("torch.jit.trace"))
        return _save(traced, output, request, attempts, (*remarks, *decisions))
    given_up = Attempt("torch.jit.trace", " ".join(decisions) or f"it holds for one size of {kept} alone")
    lost = f"the steps of one size of {kept}" if kept else "only one branch of a decision on data"
    note = f"Compiled from its source: a trace would have kept {lost}."
    return _save(compiled, output, request, (given_up, Attempt("torch.jit.script")), (note,))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import trace_inputs
    from registry_export_plugins._torch.rounding import rounded
    from registry_export_plugins._torch.tracing import program_module, trace

    module = rounded(program_module(model, request.interface), request)
    traced, notes = trace(module, trace_inputs(request))
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

    optimize, freeze = request.options.get(OPTIMIZE.name), request.options[FREEZE.name]
    try:
        with without_deprecations():
            if freeze or optimize:
                module = torch.jit.freeze(module.eval())
            if optimize:
                notes, attempts = _save_optimized(module, output, request.work, (notes, attempts))
            else:
                torch.jit.save(module, str(output))
    except RuntimeError as error:
        raise ConversionError(f"TorchScript could not be frozen or saved: {error}") from error
    return ConversionResult(attempts, notes)


Said = tuple[tuple[str, ...], tuple[Attempt, ...]]


def _save_optimized(module: Any, output: Path, work: Path, said: Said) -> Said:
    """Save the optimised module, or the frozen one with the wish to be optimised when it is loaded.

    What the optimisation makes of convolutions holds weights in the layout of the machine, which TorchScript
    cannot write.
    """
    import torch

    from registry_export_plugins._torch.calls import first_line

    notes, attempts = said
    # The pass works in place: what is to be kept is written before.
    torch.jit.save(module, str(output), _extra_files={_EXTRA: json.dumps({OPTIMIZE.name: "at load"})})
    beside = work / output.name  # an archive's inner folder is named after its file
    try:
        optimized = torch.jit.optimize_for_inference(module)
        torch.jit.save(optimized, str(beside), _extra_files={_EXTRA: json.dumps({OPTIMIZE.name: "saved"})})
        torch.jit.load(str(beside))
    except RuntimeError as error:
        note = (
            "The optimised module cannot be saved, so the file holds the frozen one: call "
            "torch.jit.optimize_for_inference on it once it is loaded, as the verification has done."
        )
        given_up = Attempt("torch.jit.optimize_for_inference, saved", first_line(error))
        return (*notes, note), (*attempts, given_up, Attempt("torch.jit.optimize_for_inference at load"))
    shutil.move(beside, output)
    return notes, (*attempts, Attempt("torch.jit.optimize_for_inference, saved"))


def _optimization(path: Path) -> str:
    """Read whether a file is optimised already (`saved`), wants to be (`at load`), or neither (empty)."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{_EXTRA}"):
                return str(json.loads(archive.read(name)).get(OPTIMIZE.name, ""))
    return ""


def _traced_only(options: Mapping[str, OptionValue]) -> str:
    return "a program has no source to compile, so method=script needs a pickled module" if _scripts(options) else ""


def _typed_by_trace(options: Mapping[str, OptionValue]) -> str:
    return scripts_keep_types(options) if _scripts(options) else ""


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
    options = (METHOD, FREEZE, OPTIMIZE, DYNAMIC_DIMENSIONS, PRECISION)
    conversions = (
        Conversion(TORCH_MODULE, _from_torch_module, TORCH, cost=1.0, accepts=_typed_by_trace),
        Conversion(EXPORTED_PROGRAM, _from_exported_program, TORCH, cost=1.5, accepts=_traced_only),
        Conversion(TORCHSCRIPT, _from_torchscript, TORCH, cost=0.5, accepts=scripts_keep_types),
    )
    verified_by = "PyTorch on the CPU"
    setup = ("wrapper", "pruning")

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find a TorchScript file where MLflow's flavor `pytorch` puts it, or among plain files."""
        return checkpoint_file(folder, flavors, Content.TORCHSCRIPT)

    def load(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Any:
        """Load a `torch.jit.ScriptModule` in evaluation mode, on the CPU; a rule's wrapper is compiled around it."""
        return self._loaded(path, setup)[0]

    def _loaded(self, path: Path, setup: ModelSetup) -> tuple[Any, Pruned | None]:
        import torch

        from registry_export_plugins._torch.calls import without_deprecations

        try:
            with without_deprecations():
                module, pruned = torch.jit.load(str(path), map_location="cpu"), None
        except (RuntimeError, ValueError, OSError) as error:
            raise SourceError(f"{path.name} cannot be read as TorchScript: {error}") from error
        if setup.pruning is not None:
            from registry_export_plugins._torch.pruning import prune_module

            pruned = prune_module(module, setup.pruning)
        if setup.wrapper:
            from registry_export_plugins._torch.wrapping import wrapped_script

            module = wrapped_script(module, setup)
        return module.eval(), pruned

    @contextmanager
    def open(self, path: Path, interface: Interface, setup: ModelSetup = NO_SETUP) -> Iterator[Runner]:
        """Load a module for inference."""
        import torch

        from registry_export_plugins._torch.calls import without_deprecations
        from registry_export_plugins._torch.modules import TorchRunner, adapt, interface_of_wrapper

        module, pruned = self._loaded(path, setup)
        if _optimization(path) == "at load":
            with without_deprecations():
                module = torch.jit.optimize_for_inference(torch.jit.freeze(module.eval()))
        interface = interface_of_wrapper(module, interface) if setup.wrapper else interface
        adapter = adapt(module, interface)
        runner = TorchRunner(adapter.call, replace(interface, inputs=adapter.inputs), "TorchScript, torch", adapter)
        runner.tell_pruned(pruned)
        yield runner

    def describe(self, path: Path) -> Description:
        """Read the names of the inputs, the precision and the archive's version; TorchScript knows no shapes."""
        from registry_export_plugins._torch.scripts import outlined

        try:
            with outlined(path) as module:
                return self._described(path, module)
        except RuntimeError:  # its weights are needed for that, or it is damaged
            return self._described(path, self.load(path, Interface(inputs=())))

    def inspect(self, path: Path) -> Inside:
        """Read weights, frozen ones too, and the calls of `forward`."""
        from registry_export_plugins._torch.contents import of_script

        return of_script(self.load(path, Interface(inputs=())), path)

    def _described(self, path: Path, module: Any) -> Description:
        from registry_export_plugins._torch.modules import adapt, precision_of
        from registry_export_plugins._torch.tracing import constants, quantized_operators

        inputs = adapt(module, Interface(inputs=())).inputs
        with zipfile.ZipFile(path) as archive:
            versions = [archive.read(name).decode().strip() for name in archive.namelist() if name.endswith("/version")]
        if not versions:
            raise VerificationError(f"{path.name} is no TorchScript archive: it has no version.")
        quantized, optimized = quantized_operators(module), _optimization(path)
        tensors = (*module.parameters(), *module.buffers(), *constants(module))
        details = {"quantised operators": ", ".join(quantized)} if quantized else {}
        details |= {OPTIMIZE.name: optimized} if optimized else {}
        return Description(
            Interface(inputs),
            format_version=versions[0],
            precision="int8" if quantized else precision_of(tensors),
            details=details,
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show PyTorch in Python and C++."""
        python = """
            import torch

            model = torch.jit.load("model.pt")
            with torch.inference_mode():
                outputs = model(«inputs»)
        """
        cpp = """
            #include <torch/script.h>

            torch::jit::Module model = torch::jit::load("model.pt");
            c10::InferenceMode guard;
            auto outputs = model.forward({«inputs»});
        """

        def tensor_in_cpp(spec: TensorSpec) -> str:
            kind = {"bfloat16": "BFloat16", "uint8": "UInt8"}.get(spec.dtype, spec.dtype.capitalize() or "Float32")
            return f"torch::zeros({{{listed(sizes(spec))}}}, torch::k{kind})"

        return (
            snippet("Python", "PyTorch", python, inputs=in_a_row(description.interface, tensor)),
            snippet("C++", "LibTorch", cpp, inputs=in_a_row(description.interface, tensor_in_cpp)),
        )
