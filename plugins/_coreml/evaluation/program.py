"""Reads a package's program into steps that can be computed one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export_plugins._coreml.evaluation.families import OPERATORS
from registry_export_plugins._coreml.evaluation.registry import Operator, unknown
from registry_export_plugins._coreml.evaluation.steps import Block, Name, Step, computed, kept, used
from registry_export_plugins._coreml.evaluation.values import Kind, constant, kind_of
from registry_export_plugins._coreml.package import Package

_CONTROL = {
    "cond": ("pred",),
    "while_loop": ("loop_vars",),
    "read_state": ("input",),
    "write_state": ("input", "data"),
}
"""Operators that need more than their inputs, blocks or the program's states, and the inputs that they must have."""

_RANDOM = frozenset({"random_bernoulli", "random_categorical", "random_normal", "random_uniform"})
_RELEASES = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}
_NOT_INPUTS = frozenset({"name", "val"})


@dataclass(frozen=True)
class Program:
    """A package's main function.

    Attributes:
        inputs: Names and kinds of the tensors that it takes.
        states: Likewise of its states.
        block: What it computes.
        release: The number of the iOS whose operators it uses.
    """

    inputs: Mapping[str, Kind]
    states: Mapping[str, Kind]
    block: Block
    release: int


def read_program(package: Package) -> Program:
    """Read a program; its structure has been checked.

    Raises:
        RuntimeAbsentError: It uses an operator that the evaluator lacks.
        VerificationError: It is damaged.
    """
    given = {item.name: item.type for item in package.function.inputs}
    states = {name: kind_of(told) for name, told in given.items() if told.WhichOneof("type") == "stateType"}
    inputs = {name: kind_of(told) for name, told in given.items() if name not in states}
    release = _RELEASES.get(package.function.opset, 0)
    if not release:
        raise unknown(f"set {package.function.opset}")
    with np.errstate(all="ignore"):
        return Program(inputs, states, _block(package, package.block, release), release)


def _block(package: Package, message: Any, release: int) -> Block:
    constants: dict[str, Any] = {}
    steps: list[Step] = []
    for operation in message.operations:
        if operation.type == "const":
            if len(operation.outputs) != 1:
                raise VerificationError(f"A constant of the program has {len(operation.outputs)} names instead of one.")
            constants[operation.outputs[0].name] = constant(package, operation.attributes["val"])
        else:
            step = _step(package, operation, release)
            # Weights are decompressed once, not at every call.
            if operation.type.startswith("constexpr_") and used(step) <= constants.keys():
                constants.update(kept(step, computed(step, constants, release)))
            else:
                steps.append(step)
    outputs = tuple(message.outputs)
    own = {name for step in steps for name, _ in step.outputs}
    return Block(tuple(i.name for i in message.inputs), constants, _with_last_uses(steps, own, outputs), outputs)


def _step(package: Package, operation: Any, release: int) -> Step:
    inputs = {name: constant(package, value) for name, value in operation.attributes.items() if name not in _NOT_INPUTS}
    for name, argument in operation.inputs.items():
        bound = [_bound(package, binding) for binding in argument.arguments]
        inputs[name] = bound[0] if len(bound) == 1 else tuple(bound)
    outputs = tuple((output.name, kind_of(output.type)) for output in operation.outputs)
    called = f"{operation.type} ({outputs[0][0]})" if outputs else str(operation.type)
    operator = None if operation.type in _CONTROL else _operator(operation.type, inputs)
    blocks = tuple(_block(package, inner, release) for inner in operation.blocks)
    _check_control(operation.type, called, inputs, blocks)
    return Step(operation.type, called, operator, inputs, outputs, blocks, ())


def _bound(package: Package, binding: Any) -> Any:
    if binding.WhichOneof("binding") == "name":
        return Name(binding.name)
    return constant(package, binding.value)


def _operator(name: str, inputs: Iterable[str]) -> Operator:
    found = OPERATORS.get(name)
    if name in _RANDOM:
        raise RuntimeAbsentError(f"The operator {name} draws random numbers: no two runs of the package agree.")
    if found is None:
        raise unknown(name)
    strange = sorted(set(inputs) - found.parameters)
    if strange:
        raise unknown(f"{name} with {strange[0]}")
    return found


def _check_control(operator: str, called: str, inputs: Iterable[str], blocks: tuple[Block, ...]) -> None:
    lacking = sorted(set(_CONTROL.get(operator, ())) - set(inputs))
    if lacking:
        raise VerificationError(f"The operation {called} lacks its input {lacking[0]}.")
    expected = 2 if operator in ("cond", "while_loop") else 0
    if len(blocks) != expected:
        raise VerificationError(f"The operation {called} has {len(blocks)} blocks instead of {expected}.")
    if operator == "while_loop" and len(blocks[0].outputs) != 1:
        raise VerificationError(f"The condition of {called} gives {len(blocks[0].outputs)} values instead of one.")


def _with_last_uses(steps: list[Step], own: set[str], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    """Note at each step which values of this block nothing needs any more, so that their memory is free."""
    needed = set(outputs)
    noted = []
    for step in reversed(steps):
        names = used(step) | {name for name, _ in step.outputs}
        last = tuple(sorted((names & own) - needed))
        needed |= names
        noted.append(Step(step.type, step.called, step.operator, step.inputs, step.outputs, step.blocks, last))
    return tuple(reversed(noted))
