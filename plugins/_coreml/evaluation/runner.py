"""Runs packages on any system, by evaluating their programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export.format import Intermediate
from registry_export_plugins._coreml.description import shown, size_ranges
from registry_export_plugins._coreml.evaluation.execution import Decisions, evaluate, walk
from registry_export_plugins._coreml.evaluation.program import read_program
from registry_export_plugins._coreml.evaluation.registry import Tensor
from registry_export_plugins._coreml.evaluation.steps import used
from registry_export_plugins._coreml.package import Package

RUNTIME = "registry-export's evaluator of ML programs"


class EvaluatedModel:
    """Answers as Core ML's own model does: arrays by feature.

    Args:
        package: Its structure has been checked.

    Attributes:
        decisions: The sides that each decision on data has taken so far, by its place.

    Raises:
        RuntimeAbsentError: Its program uses an operator that the evaluator lacks.
        VerificationError: It is damaged.
    """

    def __init__(self, package: Package) -> None:
        self._ranges = {f.name: size_ranges(f.type.multiArrayType) for f in package.spec.description.input}
        self._program = read_program(package)
        self.decisions: Decisions = {}

    def predict(self, fed: Mapping[str, Tensor]) -> dict[str, Any]:
        """Evaluate the program.

        Raises:
            VerificationError: A size is outside what the package allows, or an operation cannot be computed.
            RuntimeAbsentError: An operation is used in a way that the evaluator does not know.
        """
        self._check(fed)
        return dict(evaluate(self._program, fed, self.decisions))

    def intermediates(self, fed: Mapping[str, Tensor]) -> Iterator[Intermediate]:
        """Evaluate the program and yield what depends on its inputs, operation by operation.

        Of a loop or a decision only the results are shown. Errors are those of `predict`.
        """
        self._check(fed)
        moving = set(fed)
        for step, known in walk(self._program, fed):
            sources = tuple(sorted(used(step) & moving))
            if not sources and not step.blocks:
                continue
            for name, _ in step.outputs:
                moving.add(name)
                value = known[name]
                floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
                yield Intermediate(name, value if floats else None, operator=step.type, after=sources)

    def _check(self, fed: Mapping[str, Tensor]) -> None:
        for name, array in fed.items():
            ranges = self._ranges[name]
            inside = (low <= n and (n <= high or high < 0) for (low, high), n in zip(ranges, array.shape, strict=False))
            if len(ranges) != array.ndim or not all(inside):
                raise VerificationError(
                    f"The input {name} has the sizes {array.shape}; the package takes {shown(ranges)}."
                )
