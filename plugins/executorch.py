"""ExecuTorch: PyTorch programs for phones and microcontrollers (`.pte`), on XNNPACK or the portable kernels.

Source: https://docs.pytorch.org/executorch/stable/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry_export.entities import Attempt, Description, Interface, OptionValue, RuntimeNeed, Snippet, TensorSpec
from registry_export.errors import UnsupportedModelError
from registry_export.format import (
    DYNAMIC_DIMENSIONS,
    EXPORTED_PROGRAM,
    TORCH_MODULE,
    Conversion,
    ConversionRequest,
    ConversionResult,
    Inside,
    Option,
    Runner,
    precision_option,
    quantization_option,
)
from registry_export_plugins._snippets import count, cpp_type, each, in_a_row, listed, sizes, snippet, tensor, variables
from registry_export_plugins._target_only import TargetOnly
from registry_export_plugins._toolchains import EXECUTORCH

if TYPE_CHECKING:
    from registry_export_plugins._executorch.files import Contents

BACKEND = Option("backend", str, "xnnpack", "{value}", ("xnnpack", "portable"), help="which kernels run it")
PRECISION = precision_option("fp32", "fp16", "bf16", "int8")
QUANTIZATION = quantization_option("static", "dynamic")
MAX_BATCH = Option("max_batch", int, 16, "batch{value}", minimum=1, help="largest batch; memory is planned for it")
MAX_SIZE = Option("max_size", int, 512, "max{value}", minimum=1, help="largest size of any other dynamic dimension")


def _from_torch_module(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.export import left_out

    return _convert(model, output, request, left_out(model, request))


def _from_exported_program(model: Any, output: Path, request: ConversionRequest) -> ConversionResult:
    from registry_export_plugins._torch.programs import flat_module

    return _convert(flat_module(model, request.interface), output, request, ())


def _convert(module: Any, output: Path, request: ConversionRequest, notes: tuple[str, ...]) -> ConversionResult:
    from registry_export_plugins._executorch import bounds, quantizing
    from registry_export_plugins._executorch.files import read
    from registry_export_plugins._executorch.lowering import lower
    from registry_export_plugins._torch.export import export_program
    from registry_export_plugins._torch.rounding import rounded

    precision = request.options[PRECISION.name]
    exported = export_program(rounded(module, request), request)
    attempts = exported.attempts
    if precision == "int8":
        dynamic = request.options[QUANTIZATION.name] == "dynamic"
        module = quantizing.quantized(exported.program, request, dynamic=dynamic)
        exported = export_program(module, request)
        attempts += (Attempt(f"int8 by PT2E, {request.options[QUANTIZATION.name]}"),)
    bounds.bound(exported.program, request)
    lowered = lower(exported.program, request)
    output.write_bytes(lowered.content)
    contents = read(output)
    if precision == "int8" and contents.precision != "int8":
        raise UnsupportedModelError(
            "XNNPACK's quantiser found nothing in this model that it holds in int8.",
            remedy="Ask for precision fp16 or fp32.",
        )
    return ConversionResult((*attempts, *lowered.attempts), (*notes, *_remarks(contents, request)))


def _remarks(contents: Contents, request: ConversionRequest) -> Iterator[str]:
    """Say what a reader of the report should know of the file that was written."""
    if contents.bounds:
        sizes = ", ".join(f"{name} up to {size}" for name, size in contents.bounds.items())
        yield f"Memory is planned for {sizes}; max_batch and max_size raise that."
    if request.options[BACKEND.name] == "xnnpack" and not contents.delegates:
        yield "XNNPACK took no part of the model: all of it runs on the portable kernels, which are slow."
    fixed = [
        f"{wanted} of {spec.name} at {size}"
        for spec, own in zip(request.interface.inputs, contents.interface.inputs, strict=True)
        for wanted, size in zip(spec.shape or (), own.shape or (), strict=False)
        if isinstance(wanted, str) and isinstance(size, int)
    ]
    if fixed:
        yield (
            f"ExecuTorch has fixed {', '.join(fixed)}. Its runtime does not refuse other sizes, "
            "it computes something else: check them before the call."
        )


def _int8_needs_xnnpack(options: Mapping[str, OptionValue]) -> str:
    if options.get(BACKEND.name) == "portable" and options.get(PRECISION.name) == "int8":
        return "the portable kernels compute in floats, so precision=int8 needs backend=xnnpack"
    return ""


def _calibrates(options: Mapping[str, OptionValue]) -> bool:
    return options.get(PRECISION.name) == "int8" and options.get(QUANTIZATION.name) == "static"


class ExecuTorch(TargetOnly):
    """The format `executorch`; see `registry_export.format.Format` for what its members mean."""

    name = "executorch"
    summary = "ExecuTorch program (.pte)"
    extra = "executorch"
    requirements = ("torch", "executorch")
    toolchain = EXECUTORCH
    filename = "model.pte"
    options = (BACKEND, PRECISION, QUANTIZATION, MAX_BATCH, MAX_SIZE, DYNAMIC_DIMENSIONS)
    conversions = (
        Conversion(
            TORCH_MODULE,
            _from_torch_module,
            EXECUTORCH,
            cost=5.0,
            accepts=_int8_needs_xnnpack,
            calibrates=_calibrates,
        ),
        Conversion(
            EXPORTED_PROGRAM,
            _from_exported_program,
            EXECUTORCH,
            cost=5.5,
            accepts=_int8_needs_xnnpack,
            calibrates=_calibrates,
        ),
    )
    verified_by = "ExecuTorch's runtime on the CPU"

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load a program for inference; sizes that it has fixed are those of the file, not of the call."""
        from registry_export_plugins._executorch.files import read
        from registry_export_plugins._executorch.runner import Runner as ProgramRunner

        yield ProgramRunner(path.read_bytes(), read(path).interface)

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs, bounds, backend and precision from the file."""
        from registry_export_plugins._executorch.files import read

        contents = read(path)
        details = {
            "backend": ", ".join(f"{name} ({parts} parts)" for name, parts in contents.delegates.items()) or "portable",
            "portable operators": ", ".join(contents.operators) or "none",
        }
        if contents.bounds:
            details["bounds"] = ", ".join(f"{name} <= {size}" for name, size in contents.bounds.items())
        return Description(
            contents.interface, format_version=contents.schema, precision=contents.precision, details=details
        )

    def snippets(self, description: Description) -> tuple[Snippet, ...]:
        """Show ExecuTorch in Python, Kotlin and C++."""
        interface = description.interface
        python = """
            import torch
            from executorch.runtime import Runtime

            program = Runtime.get().load_program("model.pte")
            outputs = program.load_method("forward").execute([«inputs»])
        """
        kotlin = """
            import org.pytorch.executorch.EValue
            import org.pytorch.executorch.Module
            import org.pytorch.executorch.Tensor

            val model = Module.load(File(filesDir, "model.pte").path)
            val outputs = model.forward(
                «inputs»
            ).map { it.toTensor() }
        """
        cpp = """
            #include <executorch/extension/module/module.h>
            #include <executorch/extension/tensor/tensor.h>

            using namespace executorch::extension;
            Module model("model.pte");
            «inputs»
            auto outputs = model.forward({«names»}).get();
        """
        kinds = {"float32": "FloatArray", "float64": "DoubleArray", "int64": "LongArray", "int32": "IntArray"}

        def in_kotlin(_: int, __: str, spec: TensorSpec) -> str:
            array = f"{kinds.get(spec.dtype, 'FloatArray')}({count(spec)})"
            return f"EValue.from(Tensor.fromBlob({array}, longArrayOf({listed(sizes(spec))}))),"

        def in_cpp(_: int, name: str, spec: TensorSpec) -> str:
            data = f"std::vector<{cpp_type(spec)}>({count(spec)})"
            return f"auto {name} = make_tensor_ptr({{{listed(sizes(spec))}}}, {data});"

        names = ", ".join(variables(interface.inputs))
        return (
            snippet("Python", "ExecuTorch", python, inputs=in_a_row(interface, tensor)),
            snippet("Kotlin", "ExecuTorch", kotlin, inputs=each(interface.inputs, in_kotlin)),
            snippet("C++", "ExecuTorch", cpp, inputs=each(interface.inputs, in_cpp), names=names),
        )

    def needs(
        self, options: Mapping[str, OptionValue], kind: str, description: Description | None
    ) -> tuple[RuntimeNeed, ...]:
        """Say that a program runs on the runtime that it was made with and on the next ones, and on no older one."""
        from registry_export_plugins._compatibility import installed_version

        version = installed_version("executorch")
        if not version:
            return ()
        text = f"ExecuTorch {version}, at least the next minor release too; older ones are not promised"
        return (RuntimeNeed("executorch", text, version),)

    def inspect(self, path: Path) -> Inside:
        """Read constants, portable calls and XNNPACK's nodes."""
        from registry_export_plugins._executorch.contents import inside

        return inside(path)
