"""TorchScript from modules and from `torch.export` programs."""

from __future__ import annotations

import linecache
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from registry_export.entities import Dimension, Interface
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import FIXED_DECISION, ConversionRequest
from registry_export_plugins._torch.calls import bind, first_line, flatten, without_deprecations
from registry_export_plugins._torch.modules import TorchAdapter, to_tensor, with_argument_names
from registry_export_plugins._torch.plain import OPERATORS, no_fast_path
from registry_export_plugins._torch.programs import ProgramCall, with_leaves
from registry_export_plugins._torch.recurrent import loops


def trace(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.jit.ScriptModule, tuple[str, ...]]:
    """Record what a module does with the inputs given.

    Returns:
        The trace, and a sentence for each decision on data that it has frozen: it will be wrong for inputs
        that decide otherwise.

    Raises:
        ConversionError: The module cannot be traced.
    """
    with warnings.catch_warnings(record=True) as caught, torch.no_grad(), no_fast_path():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", torch.jit.TracerWarning)
        try:
            # The trace is judged at other sizes later on; running it twice more here would tell less.
            traced = torch.jit.trace(module, tuple(inputs), check_trace=False, strict=False)
        except Exception as error:  # tracing raises whatever the model raises
            if "dynamo-optimized function" in str(error):
                raise _no_word_for("torch.cond or another control flow operator") from error
            raise ConversionError(f"torch.jit.trace refused the model: {first_line(error)}") from error
    return traced, tuple(dict.fromkeys(_frozen(warning) for warning in caught if _decides(warning)))


def unrolled(
    module: torch.nn.Module, traced: torch.nn.Module, interface: Interface, inputs: Sequence[torch.Tensor]
) -> str:
    """Name a dynamic dimension at whose other sizes a trace does not answer as its module does; empty: there is none.

    A loop over a sequence is recorded as so many steps, without any warning.

    Args:
        module: What was traced.
        traced: Its trace.
        interface: Says which dimensions are dynamic.
        inputs: What it was traced with.
    """
    shapes = [spec.shape or () for spec in interface.inputs]
    for name in dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, str)):
        longer = [_one_longer(tensor, shape, name) for tensor, shape in zip(inputs, shapes, strict=True)]
        own, kept = _answers(module, longer), _answers(traced, longer)
        if own is not None and (kept is None or not all(map(_alike, own, kept))):
            return name
    return ""


def _answers(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
    """Call a module; None where it refuses these sizes."""
    try:
        with torch.no_grad(), no_fast_path(), without_deprecations():
            return flatten(module(*inputs)).tensors
    except Exception:  # noqa: BLE001  a module raises whatever it likes
        return None


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True)


def _one_longer(tensor: torch.Tensor, shape: Sequence[Dimension], name: str) -> torch.Tensor:
    for axis, size in enumerate(shape):
        if size == name and tensor.shape[axis]:
            tensor = torch.cat((tensor, tensor.narrow(axis, 0, 1)), axis)
    return tensor


def _no_word_for(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The model contains {what}, which TorchScript has no word for.",
        remedy="Export onnx or exported_program, or log the module pickled with the branch as a Python `if`.",
    )


def _decides(warning: warnings.WarningMessage) -> bool:
    """Say whether a warning is of a branch in the author's code; those of installed packages check sizes."""
    own = Path(torch.__file__).parent.parent in Path(warning.filename).parents
    decided = any(kind in str(warning.message) for kind in ("Python boolean", "Python number"))  # `if`, `.item()`
    return issubclass(warning.category, torch.jit.TracerWarning) and decided and not own


def _frozen(warning: warnings.WarningMessage) -> str:
    source = linecache.getline(warning.filename, warning.lineno).strip()
    return (
        f"{FIXED_DECISION} in line {warning.lineno} of {Path(warning.filename).name}"
        f"{source and f' (`{source}`)'}: inputs that decide otherwise come out wrong. Write it with torch.where, or "
        "with torch.cond for onnx and exported_program, or so that torch.jit.script compiles it."
    )


def script(module: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile a module's source; control flow is kept.

    Raises:
        UnsupportedModelError: The source uses what TorchScript has no word for.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module
    try:
        with without_deprecations():
            return torch.jit.script(module)
    except Exception as error:  # the compiler raises errors of many classes, none of them its own
        raise UnsupportedModelError(
            f"torch.jit.script cannot compile the model: {first_line(error)}", remedy="Use method=trace."
        ) from error


def quantized_operators(module: torch.jit.ScriptModule) -> tuple[str, ...]:
    """Name the operators of a script that compute in PyTorch's own quantised tensors (`quantized::linear`).

    No other format has these; a module without any yields nothing.
    """
    kinds = {node.kind() for node in all_nodes(module.inlined_graph)}
    return tuple(sorted(kind for kind in kinds if kind.startswith("quantized::")))


def constants(module: torch.jit.ScriptModule) -> Iterator[torch.Tensor]:
    """Return the tensors that freezing has put into a script's graph."""
    return (tensor for _, tensor in named_constants(module))


def named_constants(module: torch.jit.ScriptModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the same tensors with the names of their values in the graph."""
    for node in all_nodes(module.inlined_graph):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            yield node.output().debugName(), node.t("value")


def all_nodes(block: Any) -> Iterator[Any]:
    """Yield the nodes of a graph or a block, and those inside of them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from all_nodes(inner)


def captured(model: torch.jit.ScriptModule, request: ConversionRequest) -> torch.nn.Module:
    """Turn a script into a module that `torch.export` can capture, branches and loops included.

    Uses PyTorch's converter of scripts, which is part of `torch` and not yet public.

    Raises:
        UnsupportedModelError: The script has an operator that the converter has no form of; it is named.
    """
    from torch._export.converter import TS2EPConverter

    binding = bind(model, request.interface)
    tensors = [to_tensor(request.samples[spec.name]) for spec in request.interface.inputs]
    args, keywords = binding.arguments(tensors)
    quantised = quantized_operators(model)
    if quantised:
        raise UnsupportedModelError(
            f"torch.export has no form of {', '.join(quantised)}, which this TorchScript contains.",
            remedy="Export torchscript, or log the model before it was quantised and ask for precision=int8.",
        )
    if keywords:
        raise UnsupportedModelError(f"The script's argument {next(iter(keywords))} is keyword-only, which has no form.")
    try:
        with torch.no_grad(), without_deprecations(), loops():
            program = with_leaves(TS2EPConverter(model, args).convert())
    except Exception as error:  # the converter raises errors of many classes, none of them its own
        raise UnsupportedModelError(
            f"PyTorch's converter from TorchScript refused the model: {first_line(error)}",
            remedy="Log the module pickled, or export torchscript.",
        ) from error
    named: type[TorchAdapter] = with_argument_names(TorchAdapter, [spec.name for spec in binding.inputs])
    return named(program.module(check_guards=False), binding)


def program_module(program: torch.export.ExportedProgram, interface: Interface) -> ProgramModule:
    """Wrap a program so that it can be traced; the trace's arguments have the interface's names.

    Raises:
        UnsupportedModelError: It contains control flow.
    """
    named: type[ProgramModule] = with_argument_names(ProgramModule, [spec.name for spec in interface.inputs])
    return named(program, interface)


class ProgramModule(torch.nn.Module):
    """A `torch.export` program as a module that `torch.jit.trace` can follow at any size.

    A program calls its operators with sizes as plain numbers, which a trace would keep. Here those calls
    go through the functions of `torch`, where sizes are traced.
    """

    def __init__(self, program: torch.export.ExportedProgram, interface: Interface) -> None:
        super().__init__()
        self._call = ProgramCall(program, interface)
        self.body = _unguarded(program)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on one tensor per input and return one tensor per output."""
        leaves = self._call.leaves(tensors)
        outputs = _Interpreter(self.body).run(*leaves, enable_io_processing=False)
        return tuple(output for output in pytree.tree_leaves(outputs) if isinstance(output, torch.Tensor))


def _unguarded(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """Return a program's graph without the checks on its sizes, which a trace would take for decisions.

    Raises:
        UnsupportedModelError: It contains control flow.
    """
    module = program.module()
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise _no_word_for(f"torch.{node.target.name()}")
    for node in [node for node in module.graph.nodes if node.op == "call_module" and node.target == "_guards_fn"]:
        module.graph.erase_node(node)
    checks = ("_assert", "sym_constrain_range")
    for node in [node for node in module.graph.nodes if any(check in str(node.target) for check in checks)]:
        module.graph.erase_node(node)
    module.recompile()
    return module


class _Interpreter(torch.fx.Interpreter):
    def run_node(self, n: torch.fx.Node) -> Any:
        symbolic = (torch.SymInt, torch.SymFloat)
        if not isinstance(n.target, torch._ops.OpOverload) or n.target.namespace != "aten":
            return super().run_node(n)
        sized = any(isinstance(source.meta.get("val"), symbolic) for source in n.all_input_nodes)
        if not sized and n.target._schema.name.removeprefix("aten::") not in OPERATORS:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return _through_python(n.target, args, kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is torch.ops.aten.sym_size.int:
            return args[0].shape[args[1]]
        if target is torch.ops.aten.sym_numel.default:
            return args[0].numel()
        return super().call_function(target, args, kwargs)


def _through_python(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = target._schema.name.removeprefix("aten::")
    if name == "slice":
        axis, *bounds = (*args[1:], None)[:4]
        return args[0][(*[slice(None)] * axis, slice(*bounds))]
    if args and isinstance(args[0], torch.Tensor) and hasattr(torch.Tensor, name):
        return getattr(args[0], name)(*args[1:], **kwargs)
    for place in (torch.nn.functional, torch, torch._C._nn):
        if hasattr(place, name):
            return getattr(place, name)(*args, **kwargs)
    return target(*args, **kwargs)
