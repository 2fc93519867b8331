"""A rule's wrapper around models that are not Python modules: compiled scripts and exported programs."""

from __future__ import annotations

from typing import Any

import torch

from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from registry_export_plugins._torch.calls import first_line, without_deprecations
from registry_export_plugins._torch.plain import no_fast_path


def wrapped_script(module: torch.jit.ScriptModule, setup: ModelSetup) -> torch.jit.ScriptModule:
    """Compile a rule's wrapper with a script inside.

    Raises:
        SourceError: The wrapper fails, or cannot be compiled.
    """
    made = _module(setup.wrap(module), setup)
    if isinstance(made, torch.jit.ScriptModule):
        return made
    try:
        with without_deprecations():
            return torch.jit.script(made.eval())
    except Exception as error:  # the compiler raises errors of many classes, none of them its own
        raise SourceError(
            f"wrapper {setup.wrapper} cannot be compiled around a TorchScript module: {first_line(error)}",
            remedy="Write its forward() in what torch.jit.script understands, or log the model as a module.",
        ) from error


def wrapped_program(program: torch.export.ExportedProgram, setup: ModelSetup) -> torch.export.ExportedProgram:
    """Capture a rule's wrapper with a program inside; it takes the program's inputs, at the program's sizes.

    Raises:
        SourceError: The wrapper fails, or cannot be captured.
    """
    args, kwargs = program.example_inputs or _made_inputs(program)
    made = _module(setup.wrap(program.module()), setup)
    made.training = False  # not .eval(), which a loaded program refuses
    axes = _dynamic(program)
    try:
        with torch.no_grad(), no_fast_path(), without_deprecations():
            shapes = torch.utils._pytree.tree_map(lambda leaf: axes.pop(0) if torch.is_tensor(leaf) else None, args)
            return torch.export.export(made, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises whatever the wrapper raises
        raise SourceError(
            f"wrapper {setup.wrapper} cannot be captured around the program: {first_line(error)}",
            remedy="Let its forward() take the program's inputs in order, and use operators that torch.export knows.",
        ) from error


def _module(made: Any, setup: ModelSetup) -> torch.nn.Module:
    if not isinstance(made, torch.nn.Module):
        raise SourceError(
            f"wrapper {setup.wrapper} returns a {type(made).__name__}, not a torch.nn.Module.",
            remedy="Let it return a module whose forward() calls the model.",
        )
    return made


def _placeholders(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    names = set(program.graph_signature.user_inputs)
    nodes = (node for node in program.graph.nodes if node.op == "placeholder" and node.name in names)
    return [node.meta["val"] for node in nodes if isinstance(node.meta["val"], torch.Tensor)]


def _made_inputs(program: torch.export.ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make inputs of zeros at the sizes that the program was captured with, for a file that keeps none."""
    sizes = [[_hint(size) for size in tensor.shape] for tensor in _placeholders(program)]
    zeros = [torch.zeros(s, dtype=t.dtype) for s, t in zip(sizes, _placeholders(program), strict=True)]
    args, kwargs = torch.utils._pytree.tree_unflatten(zeros, program.call_spec.in_spec)
    return args, kwargs


def _hint(size: int | torch.SymInt) -> int:
    return int(size.node.hint or 2) if isinstance(size, torch.SymInt) else int(size)


def _dynamic(program: torch.export.ExportedProgram) -> list[dict[int, Any]]:
    """Return the dynamic axes of each tensor input."""
    return [
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(tensor.shape) if isinstance(size, torch.SymInt)}
        for tensor in _placeholders(program)
    ]
