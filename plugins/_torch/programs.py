"""`torch.export` programs: their interface, their calls, their loading."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import Intermediate
from registry_export_plugins._torch.calls import flatten
from registry_export_plugins._torch.modules import with_argument_names

_LARGEST_WHOLE = 1 << 20
"""Bytes of a weight that is worth leaving out."""
_STRIDE = ".stride()"
_NOT_CONTIGUOUS = "it was made from an array that is a slice or a transpose: log it with np.ascontiguousarray(example)"
_LIBRARIES = {"quantized_decomposed": "torch.ao.quantization.fx._decomposed", "torchao": "torchao"}
"""Operators that PyTorch knows once their module is imported: those of programs that were quantised."""
_GRAPH = "models/model.json"
_WEIGHT, _WEIGHTS_CONFIG = "/data/weights/weight_", "weights_config.json"


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Load a `.pt2` file.

    Raises:
        SourceError: The file is damaged, or made by another version of PyTorch.
    """
    try:
        return with_leaves(_load(path))
    except (RuntimeError, ValueError, OSError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path.name} cannot be read by torch {torch.__version__}: {error}",
            remedy="Log the model again with this version, or install the version that logged it.",
        ) from error


def load_outline(path: Path) -> torch.export.ExportedProgram:
    """Load a `.pt2` file whose large weights have shapes and dtypes alone: for its graph and its interface.

    Raises:
        SourceError: As for `load_program`.
    """
    with tempfile.TemporaryDirectory() as folder:
        outline = Path(folder, path.name)
        try:
            return load_program(outline if _hollowed(path, outline) else path)
        except (SourceError, zipfile.BadZipFile, ValueError, KeyError, TypeError):  # another layout of the archive
            return load_program(path)


def _hollowed(path: Path, outline: Path) -> bool:
    """Copy an archive without the bytes of large weights, and with no device for them; say whether there are any."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(outline, "w") as made:
        entries = archive.infolist()
        large = {e.filename for e in entries if e.file_size > _LARGEST_WHOLE and _WEIGHT in e.filename}
        names = {name.rpartition("/")[2] for name in large}
        for entry in entries if large else ():
            content = b"" if entry.filename in large else archive.read(entry)
            if entry.filename.endswith(_WEIGHTS_CONFIG):
                content = _without_device(content, names)
            made.writestr(entry.filename, content)
    return bool(large)


def _without_device(content: bytes, names: Collection[str]) -> bytes:
    config = json.loads(content)
    for payload in config["config"].values():
        if payload["path_name"] in names:
            payload["tensor_meta"]["device"] = {"type": "meta", "index": None}
    return json.dumps(config).encode()


def with_leaves(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Detach weights on which a gradient's history hangs, as those of a script do: they cannot be copied."""
    for store in (program.state_dict, program.constants):
        for name, tensor in list(store.items()):
            if isinstance(tensor, torch.Tensor) and not tensor.is_leaf:
                store[name] = tensor.detach()
    return program


def _load(path: Path) -> torch.export.ExportedProgram:
    try:
        return torch.export.load(str(path))
    except (NotImplementedError, AssertionError, ValueError, RuntimeError) as error:
        # An output's class (a transformers ModelOutput) is known once its package has registered it.
        packages = sorted(set(re.findall(r"\b([a-z_][a-z0-9_]*)(?:\.\w+)+", str(error))) - {"torch"})
        packages += _libraries(path)
        imported = [package for package in packages if _import(package)]
        if not imported:
            raise
        return torch.export.load(str(path))


def _libraries(path: Path) -> list[str]:
    """Name the modules that know operators of a program; PyTorch only logs which one it lacks."""
    with zipfile.ZipFile(path) as archive:
        graphs = [archive.read(name) for name in archive.namelist() if name.endswith(_GRAPH)]
    return [module for name, module in _LIBRARIES.items() if any(f"torch.ops.{name}.".encode() in g for g in graphs)]


def _import(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


class ProgramCall:
    """Calls a program with one tensor per input, in order.

    Attributes:
        inputs: Its tensor inputs, with the sizes and dynamic dimensions that the file declares.
        labels: The names given to its dynamic dimensions, by symbol.
        order: For each input, the position of its tensor among the tensor arguments of the program.
    """

    def __init__(self, program: torch.export.ExportedProgram, interface: Interface) -> None:
        self._module = program.module()
        self._leaves = _input_values(program)
        self._spec = program.call_spec.in_spec
        self._positions = [i for i, value in enumerate(self._leaves) if isinstance(value, torch.Tensor)]
        own = [_argument_names(program, len(self._leaves))[i] for i in self._positions]
        names, self.order = _matched(own, interface)
        tensors = [self._leaves[self._positions[i]] for i in self.order]
        self.labels: dict[str, str] = {}
        self.inputs = _specs(names, tensors, program, self.labels)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return what the program returns; its guards refuse sizes that it was not made for.

        Raises:
            AssertionError: A guard refuses; of one about strides it says how the program came to it.
        """
        args, kwargs = pytree.tree_unflatten(self.leaves(tensors), self._spec)
        try:
            return self._module(*args, **kwargs)
        except AssertionError as error:
            if _STRIDE not in str(error):
                raise
            raise AssertionError(f"{error} ({_NOT_CONTIGUOUS})") from error

    def watched(self, tensors: Sequence[torch.Tensor]) -> Iterator[Intermediate]:
        """Run the graph node by node, and yield what depends on the tensors."""
        from registry_export_plugins._torch.graph_intermediates import watched_graph

        return watched_graph(self._module, self.leaves(tensors))

    def leaves(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Arrange tensors, given in the interface's order, as the program's flat inputs, constants included."""
        leaves = list(self._leaves)
        for i, tensor in zip(self.order, tensors, strict=True):
            leaves[self._positions[i]] = tensor
        return leaves


def flat_module(program: torch.export.ExportedProgram, interface: Interface) -> torch.nn.Module:
    """Wrap a program as a module that takes the interface's tensors in order and returns a flat tuple of tensors.

    The program's guards are left out: whoever captures the module again finds its own.
    """
    named: type[_FlatModule] = with_argument_names(_FlatModule, [spec.name for spec in interface.inputs])
    return named(program, interface)


class _FlatModule(torch.nn.Module):
    def __init__(self, program: torch.export.ExportedProgram, interface: Interface) -> None:
        super().__init__()
        self._call = ProgramCall(program, interface)
        self._spec = program.call_spec.in_spec
        self.body = program.module(check_guards=False)
        self.training = False  # a program refuses .eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = pytree.tree_unflatten(self._call.leaves(tensors), self._spec)
        return flatten(self.body(*args, **kwargs)).tensors


def _input_values(program: torch.export.ExportedProgram) -> list[Any]:
    """Return a fake tensor, or the constant, for each leaf of the arguments."""
    signature = program.graph_signature
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values: list[Any] = []
    for spec in signature.input_specs:
        if spec.kind != torch.export.graph_signature.InputKind.USER_INPUT:
            continue
        if hasattr(spec.arg, "value"):
            values.append(spec.arg.value)
        else:
            values.append(placeholders[spec.arg.name].meta["val"])
    return values


def _argument_names(program: torch.export.ExportedProgram, count: int) -> list[str]:
    """Name the leaves: after the arguments where each is one tensor, else after the graph's placeholders."""
    names = list(inspect.signature(program.module().forward).parameters)
    if len(names) == count:
        return names
    return [str(name) for name in program.graph_signature.user_inputs]


def _matched(own: Sequence[str], interface: Interface) -> tuple[list[str], list[int]]:
    """Return names and, for each, the position of its tensor: by name where all agree, else by position."""
    declared = [spec.name for spec in interface.inputs]
    if not declared:
        return list(own), list(range(len(own)))
    if len(declared) != len(own):
        raise SourceError(
            f"The signature declares {len(declared)} inputs, but the program takes {len(own)}: {', '.join(own)}.",
            remedy="Log the model with a signature whose inputs are the program's.",
        )
    if set(declared) == set(own):
        return declared, [list(own).index(name) for name in declared]
    return [name or own[i] for i, name in enumerate(declared)], list(range(len(own)))


def _specs(
    names: Sequence[str], tensors: Sequence[Any], program: torch.export.ExportedProgram, labels: dict[str, str]
) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in zip(names, tensors, strict=True):
        shape = tuple(dimension_of(size, name, axis, program, labels) for axis, size in enumerate(tensor.shape))
        specs.append(TensorSpec(name, dtype_name(tensor.dtype), shape))
    return tuple(specs)


def dimension_of(
    size: Any, name: str, axis: int, program: torch.export.ExportedProgram, labels: dict[str, str]
) -> Dimension:
    """Return a fixed size, or a name for a symbolic one; equal symbols have equal names.

    Args:
        size: One element of a fake tensor's shape.
        name: The tensor's name.
        axis: The axis.
        program: Knows the range of every symbol.
        labels: Names given so far, by symbol; added to.
    """
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    limits = program.range_constraints.get(expression)
    if limits is not None and limits.lower == limits.upper:
        return int(limits.lower)
    return labels.setdefault(str(expression), "batch" if axis == 0 else f"{name}_{axis}")


def dtype_name(dtype: torch.dtype) -> str:
    """Return NumPy's name of a dtype (`float32`)."""
    return str(dtype).removeprefix("torch.")


def program_interface(program: torch.export.ExportedProgram) -> Interface:
    """Read inputs and outputs, with dynamic dimensions, from a program."""
    call = ProgramCall(program, Interface(inputs=()))
    nodes = {node.name: node for node in program.graph.nodes}
    values = [_output_value(spec, nodes) for spec in _user_outputs(program)]
    leaves = flatten(pytree.tree_unflatten(values, program.call_spec.out_spec))
    return Interface(call.inputs, _specs(leaves.names, leaves.tensors, program, call.labels))


def _user_outputs(program: torch.export.ExportedProgram) -> list[Any]:
    kind = torch.export.graph_signature.OutputKind.USER_OUTPUT
    return [spec for spec in program.graph_signature.output_specs if spec.kind == kind]


def _output_value(spec: Any, nodes: Mapping[str, Any]) -> Any:
    if hasattr(spec.arg, "value"):
        return spec.arg.value
    return nodes[spec.arg.name].meta.get("val")
