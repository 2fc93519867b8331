"""From a captured program to the bytes of a `.pte` file, in the ways known to work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from registry_export.entities import Attempt, Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._executorch import bounds
from registry_export_plugins._executorch.files import METHOD, to_text
from registry_export_plugins._executorch.runner import Runner, without_kernel
from registry_export_plugins._torch.calls import first_line, without_deprecations
from registry_export_plugins._torch.programs import dtype_name

_AFTERWARDS = "XNNPACK, after decomposition"
_INPUT = torch.export.graph_signature.InputKind.USER_INPUT
_OUTPUT = torch.export.graph_signature.OutputKind.USER_OUTPUT


@dataclass(frozen=True)
class Lowered:
    """A file's content and how it was got.

    Attributes:
        content: The bytes of the `.pte` file.
        interface: Inputs and outputs with the dimensions that are dynamic in it.
        attempts: What was tried, in order; the last one worked.
    """

    content: bytes
    interface: Interface
    attempts: tuple[Attempt, ...]


def partitioners(backend: str) -> list[Any]:
    """Return what claims parts of a graph for a backend; nothing, for the portable kernels."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()] if backend == "xnnpack" else []


def lower(program: torch.export.ExportedProgram, request: ConversionRequest) -> Lowered:
    """Lower a program; what XNNPACK cannot take runs on the portable kernels.

    XNNPACK first claims operators before they are decomposed; it fails on control flow. Then it claims
    what is left of them afterwards; then nothing is claimed.

    Args:
        program: Takes one tensor per input of the request's interface and returns a tuple of tensors.
        request: Gives the backend, and the names.

    Raises:
        UnsupportedModelError: The portable kernels lack an operator too.
        ConversionError: ExecuTorch refused the program.
    """
    attempts: list[Attempt] = []
    failure: Exception | None = None
    ranges = bounds.ranges_of(program)
    for way, to_edge in _ways(str(request.options["backend"])):
        try:
            with torch.no_grad(), without_deprecations():
                bounds.restore(ranges)
                edge = to_edge(program)
                content, interface = _finish(edge, request, ranges)
            if way == _AFTERWARDS and not any("executorch_call_delegate" in str(n.target) for n in _nodes(edge)):
                raise ConversionError("XNNPACK can take no part of the model.")
            _try(content, interface, request)
        except Exception as error:  # noqa: BLE001  its passes raise errors of every class; kept, and chained below
            attempts.append(Attempt(way, first_line(error)))
            failure = error
            continue
        return Lowered(content, interface, (*attempts, Attempt(way)))
    raise _refused(attempts[-1].error, failure, program) from failure


def _ways(backend: str) -> list[tuple[str, Callable[[torch.export.ExportedProgram], Any]]]:
    from executorch.exir import EdgeCompileConfig, to_edge, to_edge_transform_and_lower

    config = EdgeCompileConfig(_check_ir_validity=False)
    portable = ("portable kernels", lambda program: to_edge(program, compile_config=config))
    if backend == "portable":
        return [portable]
    whole = partitioners(backend)
    return [
        ("XNNPACK", lambda program: to_edge_transform_and_lower(program, partitioner=whole, compile_config=config)),
        (_AFTERWARDS, lambda program: to_edge(program, compile_config=config).to_backend(whole[0])),
        portable,
    ]


def _finish(edge: Any, request: ConversionRequest, ranges: bounds.Ranges) -> tuple[bytes, Interface]:
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig

    program = edge.exported_program()
    interface = _interface(program, request.interface)
    methods = {METHOD: to_text(interface)}
    config = EdgeCompileConfig(_check_ir_validity=False)
    manager = EdgeProgramManager(program, constant_methods=methods, compile_config=config)
    written = manager.to_executorch(ExecutorchBackendConfig(sym_shape_eval_pass=bounds.planned_for(ranges)))
    operators = [(o.name, o.overload) for plan in written.executorch_program.execution_plan for o in plan.operators]
    missing = without_kernel(operators)
    if missing:
        raise ConversionError(f"The runtime has no kernel for {', '.join(missing)}.")
    return bytes(written.buffer), interface


def _nodes(edge: Any) -> Iterable[Any]:
    return edge.exported_program().graph.nodes


def _interface(program: torch.export.ExportedProgram, wanted: Interface) -> Interface:
    """Read which dimensions are dynamic after lowering: decompositions fix some (a recurrent layer's length)."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = [values[spec.arg.name] for spec in signature.input_specs if spec.kind == _INPUT]
    outputs = [values[spec.arg.name] for spec in signature.output_specs if spec.kind == _OUTPUT]
    labels: dict[str, str] = {}
    return Interface(_specs(wanted.inputs, inputs, labels, "input"), _specs(wanted.outputs, outputs, labels, "output"))


def _specs(
    wanted: Sequence[TensorSpec], values: Sequence[Any], labels: dict[str, str], role: str
) -> tuple[TensorSpec, ...]:
    known = list(wanted) if len(wanted) == len(values) else []
    specs = []
    for index, value in enumerate(values):
        name = known[index].name if known else (role if len(values) == 1 else f"{role}_{index}")
        asked = known[index].shape if known else None
        shape = tuple(_dimension(size, axis, name, asked, labels) for axis, size in enumerate(value.shape))
        specs.append(TensorSpec(name, dtype_name(value.dtype), shape))
    return tuple(specs)


def _dimension(
    size: Any, axis: int, name: str, asked: tuple[Dimension, ...] | None, labels: dict[str, str]
) -> Dimension:
    if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
        return int(size)
    own = asked[axis] if asked is not None and axis < len(asked) else None
    return labels.setdefault(
        str(size.node.expr), own if isinstance(own, str) else "batch" if axis == 0 else f"{name}_{axis}"
    )


def _try(content: bytes, interface: Interface, request: ConversionRequest) -> None:
    """Load and run once what was written: an operator that no kernel implements shows only there."""
    Runner(content, interface).infer({spec.name: request.samples[spec.name] for spec in interface.inputs})


_MISSING = re.compile(r"Missing out variants: \{(.*)\}|no kernel for ([\w:., ]+)")


def _refused(message: str, failure: Exception | None, program: torch.export.ExportedProgram) -> ConversionError:
    missing = _MISSING.search(str(failure))
    if missing is None:
        return ConversionError(f"ExecuTorch refused the model: {message}")
    names = sorted(set(re.findall(r"\w+::\w+", missing[0])))
    with without_deprecations():
        places = [f"{name} ({place})" if (place := _place(name, program)) else name for name in names]
    return UnsupportedModelError(
        f"ExecuTorch has no kernel for {', '.join(places)}.",
        remedy="Write that part with operators of https://docs.pytorch.org/executorch/stable/ir-ops-set-definition.html.",
    )


def _place(operator: str, program: torch.export.ExportedProgram) -> str:
    """Name the module whose code an operator comes from, as its author would."""
    name = operator.partition("::")[2].removesuffix("_copy")
    # A decomposition may have brought the operator in; the module that it stands for is kept.
    for node in (*program.graph.nodes, *program.run_decompositions().graph.nodes):
        if node.op == "call_function" and name in str(node.target).split("."):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            path = re.sub(r"^L\['self'\]\.?", "", str(stack[-1][0]) if stack else "")
            return re.sub(r"^((wrapped|body)(\.|$))+", "", path) or "forward of the model itself"
    return ""
