"""What PyTorch's files hold: tensors by name, layers by class, calls by operator."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from registry_export.format import Array, Held, Inside

NO_GRAPH = "Operators: there is no graph in {}."
_PACKED = re.compile(r"bits|bit$|u?int[1-7]$|float4")
"""Element types of less than a byte: PyTorch stores them for kernels of others, and reads none of them itself."""
_VALUES_OF_SCRIPTS = ("prim::Constant", "prim::GetAttr", "prim::TupleConstruct", "prim::ListConstruct")


def of_state(state: Mapping[str, Any], what: str, metadata: Mapping[str, str] | None = None) -> Inside:
    """Read weights without an architecture.

    Args:
        state: Tensors by name; what is none is left out.
        what: What the file is called in sentences (`a state dict`).
        metadata: What else it says.
    """
    return Inside(held(state), metadata=metadata or {}, unsaid=(NO_GRAPH.format(what),))


def of_module(module: torch.nn.Module) -> Inside:
    """Read a module: its parameters and buffers, and the classes of its innermost modules."""
    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    buffers = sum(b.numel() for b in module.buffers())
    metadata = {"class": type(module).__qualname__, "elements of buffers": str(buffers)}
    tensors = held({**dict(module.named_parameters(remove_duplicate=False)), **_buffers(module)})
    return Inside(tensors, Counter(type(part).__qualname__ for part in leaves), metadata)


def _buffers(module: torch.nn.Module) -> dict[str, Any]:
    return dict(module.named_buffers(remove_duplicate=False))


def of_program(program: torch.export.ExportedProgram, path: Path) -> Inside:
    """Read a `torch.export` program: its weights and constants, and the operators that its graphs call."""
    nodes = (node for graph in program.graph_module.modules() if isinstance(graph, torch.fx.GraphModule)
             for node in graph.graph.nodes)  # fmt: skip
    calls = Counter(_operator(node.target) for node in nodes if node.op == "call_function")
    return Inside(held({**program.state_dict, **program.constants}), calls, archive_facts(path))


def _operator(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return str(target)
    return str(getattr(target, "__name__", target))


def of_script(module: torch.jit.ScriptModule, path: Path) -> Inside:
    """Read a TorchScript module: what it holds as attributes or, frozen, as constants, and the calls of `forward`."""
    from registry_export_plugins._torch.tracing import all_nodes, named_constants

    kinds = (node.kind() for node in all_nodes(module.inlined_graph))
    calls = Counter(kind for kind in kinds if kind not in _VALUES_OF_SCRIPTS)
    packed = any(kind.startswith("quantized::") for kind in calls)
    unsaid = ("Tensors: those of quantised operators are packed in objects of PyTorch's own.",) if packed else ()
    return Inside(held({**module.state_dict(), **dict(named_constants(module))}), calls, archive_facts(path), unsaid)


def archive_facts(path: Path) -> dict[str, str]:
    """Read the versions that stand in the archive of a `.pt` or `.pt2` file."""
    names = {"version": "archive version", "torch_version": "torch", "archive_version": "archive version"}
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = names.get(entry.filename.rpartition("/")[2])
            if name and entry.file_size < 64:
                found[name] = archive.read(entry).decode(errors="replace").strip()
    return found


def held(tensors: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Iterator[Held]:
    """Yield tensors; two names of one memory are said to be that."""
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype], str] = {}
    for name, tensor in dict(tensors).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            continue
        yield _held(str(name), tensor.detach(), seen)


def _held(name: str, tensor: torch.Tensor, seen: dict[Any, str]) -> Held:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    size = tensor.numel() * tensor.element_size()
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or _PACKED.match(dtype):
        return Held(name, None, shape, dtype, size)
    same_as = ""
    if tensor.numel():
        place = (tensor.data_ptr(), shape, tuple(tensor.stride()), tensor.dtype)
        same_as = seen.setdefault(place, name)
    return Held(name, partial(_array, tensor), shape, dtype, size, "" if same_as == name else same_as)


def _array(tensor: torch.Tensor) -> Array:
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    try:
        array: Array = tensor.cpu().resolve_conj().resolve_neg().numpy()
    except TypeError:  # bfloat16, the 8-bit floats and complex32, which NumPy lacks
        array = tensor.cpu().to(torch.complex64 if tensor.is_complex() else torch.float32).numpy()
    return array
