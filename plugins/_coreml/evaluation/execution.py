"""Computes a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export_plugins._coreml.evaluation.program import Program
from registry_export_plugins._coreml.evaluation.registry import Tensor, flag
from registry_export_plugins._coreml.evaluation.steps import Block, Name, Step, computed, kept, resolved

MOST_TURNS = 100_000
"""Turns that all loops of one call may take together: one that never ends must not keep its child for ever."""


Decisions = dict[str, set[bool]]
"""The sides that each decision on data has taken, by the operation that takes it."""


def evaluate(program: Program, inputs: Mapping[str, Tensor], decisions: Decisions | None = None) -> dict[str, Tensor]:
    """Compute a program's outputs; its states begin as zeros.

    Args:
        program: What `read_program` returned.
        inputs: By name, in the program's element types.
        decisions: Where the sides that decisions take are noted.

    Raises:
        VerificationError: An operation cannot be computed on these inputs.
        RuntimeAbsentError: One is used in a way that the evaluator does not know.
    """
    run = _Run(program, decisions)
    # Overflow to infinity, and NaN from it, are results like others; the comparison judges them.
    with np.errstate(all="ignore"):
        results = run.block(program.block, _given(program, inputs))
    return dict(zip(program.block.outputs, results, strict=True))


def walk(program: Program, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Step, Mapping[str, Any]]]:
    """Compute a program and yield each step of its main block, with the values known after it.

    Arguments and errors are those of `evaluate`.
    """
    run = _Run(program, None)
    known = {**_given(program, inputs), **program.block.constants}
    for step in program.block.steps:
        with np.errstate(all="ignore"):
            run.step(step, known)
        yield step, known
        run.release(step, known)


def _given(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: np.asarray(inputs[name]).astype(kind.dtype, copy=False) for name, kind in program.inputs.items()}


class _Run:
    """One call of a program."""

    def __init__(self, program: Program, decisions: Decisions | None) -> None:
        self._release = program.release
        self._decisions = {} if decisions is None else decisions
        self._turns = 0
        self._states = {
            name: np.zeros([size or 1 for size in kind.shape or ()], kind.dtype)
            for name, kind in program.states.items()
        }

    def block(self, block: Block, around: Mapping[str, Any]) -> list[Any]:
        """Compute a block's outputs; it sees the values around it."""
        known = {**around, **block.constants}
        for step in block.steps:
            self.step(step, known)
            self.release(step, known)
        return [known[name] for name in block.outputs]

    def step(self, step: Step, known: dict[str, Any]) -> None:
        """Compute one step; its results are known then."""
        known.update(kept(step, self._results(step, known)))

    def release(self, step: Step, known: dict[str, Any]) -> None:
        """Forget what nothing needs after a step."""
        for name in step.last:
            known.pop(name, None)

    def _results(self, step: Step, known: Mapping[str, Any]) -> Sequence[Any]:
        if step.type == "cond":
            side = flag(resolved(step.inputs["pred"], known))
            self._decisions.setdefault(step.called, set()).add(side)
            return self.block(step.blocks[0 if side else 1], known)
        if step.type == "while_loop":
            return self._loop(step, known)
        if step.type in ("read_state", "write_state"):
            return self._state(step, known)
        return computed(step, known, self._release)

    def _loop(self, step: Step, known: Mapping[str, Any]) -> Sequence[Any]:
        condition, body = step.blocks
        variables = resolved(step.inputs["loop_vars"], known)
        variables = variables if isinstance(variables, tuple) else (variables,)
        while flag(self.block(condition, {**known, **_named(condition, variables)})[0]):
            self._turns += 1
            if self._turns > MOST_TURNS:
                raise VerificationError(f"The loop {step.called} does not end: {MOST_TURNS:,} turns were taken.")
            variables = tuple(self.block(body, {**known, **_named(body, variables)}))
        return variables

    def _state(self, step: Step, known: Mapping[str, Any]) -> Sequence[Any]:
        bound = step.inputs["input"]
        if not isinstance(bound, Name) or bound.name not in self._states:
            raise VerificationError(f"The operation {step.called} names no state.")
        if step.type == "read_state":
            return [self._states[bound.name].copy()]
        self._states[bound.name] = np.asarray(resolved(step.inputs["data"], known))
        return []


def _named(block: Block, values: Sequence[Any]) -> dict[str, Any]:
    if len(block.inputs) != len(values):
        raise VerificationError(f"A loop has {len(values)} values and its block takes {len(block.inputs)}.")
    return dict(zip(block.inputs, values, strict=True))
