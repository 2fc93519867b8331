"""How a PyTorch model is called: its inputs bound to the parameters of `forward`, its outputs flattened and named."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError

_Parameter = inspect.Parameter


@dataclasses.dataclass(frozen=True)
class Binding:
    """Which argument of `forward` each input is.

    Attributes:
        inputs: The inputs in the interface's order, with the names they go by from here on.
        positional: For each positional argument, the position of its input.
        keywords: Keyword arguments: name and the position of its input.
        container: `dict` or `list` where `forward` takes all inputs in one argument; else empty.
    """

    inputs: tuple[TensorSpec, ...]
    positional: tuple[int, ...] = ()
    keywords: tuple[tuple[str, int], ...] = ()
    container: str = ""

    def arguments(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrange tensors, given in the interface's order, as arguments of `forward`."""
        if self.container == "dict":
            return ({spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)},), {}
        if self.container == "list":
            return (list(tensors),), {}
        return tuple(tensors[i] for i in self.positional), {name: tensors[i] for name, i in self.keywords}


def parameters_of(module: torch.nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of `forward`; TorchScript's come from its schema."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]
        return [
            _Parameter(
                argument.name,
                _Parameter.KEYWORD_ONLY if argument.kwarg_only else _Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else _Parameter.empty,
            )
            for argument in arguments
        ]
    return list(inspect.signature(module.forward).parameters.values())


def bind(module: torch.nn.Module, interface: Interface) -> Binding:
    """Match the inputs of an interface with the parameters of a module's `forward`.

    An input whose name is a parameter is that parameter; the others take the remaining parameters in
    order. An input without a name is called after its parameter. Where nothing is declared, the
    inputs are the parameters that have no default.

    Raises:
        SourceError: There are more inputs than parameters.
    """
    parameters = parameters_of(module)
    named = [p for p in parameters if p.kind not in (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)]
    specs = interface.inputs or _undeclared(named)
    takes_more = len(named) < len(parameters)
    if len(specs) > len(named) and not takes_more:
        if len([p for p in named if p.default is _Parameter.empty] or named) == 1:
            return _in_one_argument(specs, named[0])
        raise SourceError(
            f"The signature declares {len(specs)} inputs, but forward() takes {len(named)}: "
            f"{', '.join(p.name for p in named)}.",
            remedy="Log the model with a signature whose inputs are the arguments of forward().",
        )
    return _arranged(specs, _assigned(specs, parameters), parameters)


def _undeclared(named: Sequence[inspect.Parameter]) -> tuple[TensorSpec, ...]:
    required = [p for p in named if p.default is _Parameter.empty] or list(named[:1])
    return tuple(TensorSpec(p.name, "", None) for p in required)


def _in_one_argument(specs: tuple[TensorSpec, ...], parameter: inspect.Parameter) -> Binding:
    if all(spec.name for spec in specs) and "List" not in str(parameter.annotation):
        return Binding(specs, container="dict")
    inputs = (dataclasses.replace(s, name=s.name or f"{parameter.name}_{i}") for i, s in enumerate(specs))
    return Binding(tuple(inputs), container="list")


def _assigned(specs: Sequence[TensorSpec], parameters: Sequence[inspect.Parameter]) -> list[str]:
    """Name the parameter of each input; empty for one more positional argument."""
    by_name = {p.name for p in parameters if p.kind in (_Parameter.POSITIONAL_OR_KEYWORD, _Parameter.KEYWORD_ONLY)}
    taken = {spec.name for spec in specs if spec.name in by_name}
    free = [
        p.name
        for p in parameters
        if p.name not in taken and p.kind not in (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)
    ]
    by_keyword = any(p.kind is _Parameter.VAR_KEYWORD for p in parameters) and not any(
        p.kind is _Parameter.VAR_POSITIONAL for p in parameters
    )
    assigned = []
    for spec in specs:
        if spec.name in taken:
            assigned.append(spec.name)
        elif free:
            assigned.append(free.pop(0))
        else:
            assigned.append(spec.name if by_keyword else "")
    return assigned


def _arranged(specs: Sequence[TensorSpec], assigned: Sequence[str], parameters: Sequence[inspect.Parameter]) -> Binding:
    """Pass as much as possible positionally: hooks see no keyword arguments, and exporters name them less well."""
    inputs = tuple(
        dataclasses.replace(spec, name=name)
        for spec, name in zip(
            specs,
            _distinct(s.name or a or f"input_{i}" for i, (s, a) in enumerate(zip(specs, assigned, strict=True))),
            strict=True,
        )
    )
    positional: list[int] = []
    for parameter in parameters:
        if parameter.name not in assigned or parameter.kind in (_Parameter.KEYWORD_ONLY, _Parameter.VAR_KEYWORD):
            break
        positional.append(assigned.index(parameter.name))
    rest = [i for i in range(len(specs)) if i not in positional]
    positional += [i for i in rest if not assigned[i]]
    keywords = tuple((assigned[i], i) for i in rest if assigned[i])
    return Binding(inputs, tuple(positional), keywords)


def _distinct(names: Iterator[str]) -> list[str]:
    made: list[str] = []
    for name in names:
        unique, count = name, 1
        while unique in made:
            unique, count = f"{name}_{count}", count + 1
        made.append(unique)
    return made


@dataclasses.dataclass(frozen=True)
class Leaves:
    """The tensors of a model's return value.

    Attributes:
        names: `output` for a lone tensor; dictionary keys and field names; `output_0`, ... for the
            elements of a tuple, `output` for a key of no characters; a nested name joined by `.`.
        tensors: In the same order.
        dropped: What is neither tensor, number nor container of these (a key-value cache, text): name and type.
    """

    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    dropped: tuple[str, ...]


def flatten(value: Any) -> Leaves:
    """Flatten a return value; None is left out, a Python number becomes a 0-d tensor."""
    found: list[tuple[str, torch.Tensor]] = []
    dropped: list[str] = []
    for name, leaf in _walk(value, "output"):
        tensor = _as_tensor(leaf)
        if tensor is not None:
            found.append((name, tensor))
        elif leaf is not None:
            dropped.append(f"{name} ({type(leaf).__name__})")
    names = _distinct(name or "output" for name, _ in found)
    return Leaves(tuple(names), tuple(tensor for _, tensor in found), tuple(dropped))


def _as_tensor(leaf: Any) -> torch.Tensor | None:
    if isinstance(leaf, torch.Tensor):
        return leaf
    if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)):  # a size, while torch.export looks on
        dtypes = {torch.SymInt: torch.int64, torch.SymFloat: torch.float32, torch.SymBool: torch.bool}
        return torch.scalar_tensor(leaf, dtype=dtypes[type(leaf)])
    if isinstance(leaf, (bool, int, float, complex, np.ndarray, np.number)):
        return torch.as_tensor(leaf)
    return None


def _walk(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    elements = _elements(value, depth)
    if elements is None:
        yield name, value
        return
    for key, element in elements:
        yield from _walk(element, key if depth == 0 else f"{name}.{key}", depth + 1)


def _elements(value: Any, depth: int) -> Sequence[tuple[str, Any]] | None:
    """Take one level of a container apart; None for what is no container."""
    if isinstance(value, Mapping):
        return [(str(key), element) for key, element in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(str(field), getattr(value, field)) for field in value._fields]
    if isinstance(value, (tuple, list)):
        return [(f"output_{i}" if depth == 0 else str(i), element) for i, element in enumerate(value)]
    return None


def output_names(leaves: Leaves, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Name the outputs as an interface does, where it names as many; else as the model does."""
    declared = [spec.name for spec in outputs]
    if len(declared) != len(leaves.names) or not all(declared) or set(declared) == set(leaves.names):
        return leaves.names
    return tuple(declared)


_NO_FORM = re.compile(
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'|Exporting the operator '([\w:]+)' to ONNX"
)
_NOISE = re.compile(
    r"\x1b\[\d+m|/\S*/site-packages/|\s*\[Caused by .*|\s*\(unhinted: .*|\s*\(Size-like symbols: .*"
    r"|\s*Please feel free to request support .*"
)


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's class and the first line of its message that says anything.

    Of the exporters' pages it is the line with the cause, without graph values and machine paths.
    """
    missing = _NO_FORM.search(str(error))
    if missing:
        return f"there is no ONNX form of {(missing[1] or missing[2]).replace('::', '.')}"
    lines = [line.strip() for line in _NOISE.sub("", str(error)).splitlines() if line.strip()]
    if "## Exception summary" in lines:
        lines = lines[lines.index("## Exception summary") + 1 :]
    elif len(lines) > 1 and lines[1].startswith("- "):  # torch.export names the constraint below its headline
        lines = [lines[1].removeprefix("- ")]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """Keep deprecations inside PyTorch, which no user of an export can act on, out of the report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
