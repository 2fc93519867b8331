"""Measure how good a model is, inside a child: the source and every export in the same way, so that they compare."""

from __future__ import annotations

import math
import numbers
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from registry_export.differences import NUMBERS
from registry_export.discovery import discover_formats, format_named
from registry_export.entities import Interface
from registry_export.errors import EvaluationError, RegistryExportError, SourceError
from registry_export.evaluation_setup import EVALUATE
from registry_export.format import Array, Runner, Tensors
from registry_export.inference import Origin, first_run, one_line
from registry_export.labels import compared
from registry_export.model_setup import called, resolve
from registry_export.reference import base_inputs
from registry_export.samples import bind
from registry_export.tensors import read_tensors, write_tensors

EVALUATED = f"{__name__}:evaluated"
"""The name of the function below, as a child is called."""

Predict = Callable[[Tensors], dict[str, Array]]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,59}")
_OURS = frozenset(NUMBERS) | {
    "size_bytes", "opset_version", "format_version", "latency_ms", "latency_p90_ms", "convert_seconds", "sparsity",
}  # fmt: skip
_MOST_METRICS = 20


@dataclass(frozen=True)
class EvaluationRequest:
    """What is evaluated, on what, by whom.

    Attributes:
        origin: The source or an export.
        inputs: Folder of the inputs by the model's names; empty: the source finds its own.
        sample: For the source alone: folder of what was given.
        evidence: What that is.
        labels: Folder of the labels; empty: there are none.
        evaluate: `package.module:callable`; empty: the labels are compared.
        search: Folders in which its module is looked for.
        folder: Where a source writes the inputs that it was run on.
        output: For an export: what the source's labels were compared with; empty: nothing was.
    """

    origin: Origin
    inputs: str
    sample: str = ""
    evidence: str = "random"
    labels: str = ""
    evaluate: str = ""
    search: tuple[str, ...] = ()
    folder: str = ""
    output: str = ""


@dataclass(frozen=True)
class Evaluated:
    """How good a model is.

    Attributes:
        metrics: By name.
        inputs: Folder of the inputs that they were taken on.
        output: What the labels were compared with; empty: a function measured.
        note: What a person should know of that choice; empty: there was none.
    """

    metrics: Mapping[str, float]
    inputs: str
    output: str = ""
    note: str = ""


def evaluated(arguments: Any) -> Evaluated:
    """Load a model and measure how good it is.

    Raises:
        EvaluationError: The callable fails or returns no numbers, or the labels fit no output.
    """
    request = msgspec.convert(arguments, EvaluationRequest)
    request.origin.enter()
    sys.path.extend(folder for folder in request.search if folder not in sys.path)
    format_ = format_named(discover_formats(), request.origin.format)
    name, labels = next(iter(read_tensors(Path(request.labels)).items())) if request.labels else ("", None)
    with request.origin.open(format_) as runner:
        folder, batch = (
            (request.inputs, _fixed_batch(request.origin.interface)) if request.inputs else _found(request, runner)
        )
        inputs = {name: np.array(array) for name, array in read_tensors(Path(folder)).items()}
        predict = _predict(runner, batch)
        if request.evaluate:
            return Evaluated(_called(request.evaluate, predict, inputs, labels), folder)
        if labels is None:
            raise EvaluationError("There are no labels to compare with.")
        found = compared(_answers(predict, inputs), np.array(labels), request.output, name)
        return Evaluated(checked(found.metrics, "The comparison with the labels"), folder, found.output, found.note)


def _found(request: EvaluationRequest, runner: Runner) -> tuple[str, int]:
    """Write the inputs that a source finds for itself, with its dtypes; return how many rows it takes at a time, too.

    Of a source the declared sizes bind nobody: only one that refuses all rows at once is given parts.
    """
    base, evidence = base_inputs(runner, request.sample, request.evidence)
    first, _, _ = first_run(runner, base, evidence)
    folder = Path(request.folder, "inputs")
    write_tensors(folder, {name: array.astype(first[name].dtype, copy=False) for name, array in base.items()})
    return str(folder), _rows(first) if _rows(first) < _rows(base) else 0


class _Parts(dict[str, Array]):
    """Answers put together from parts; what has no rows to put together is asked for in vain, and told why."""

    def __init__(self, parts: list[dict[str, Array]], rows: int, batch: int) -> None:
        joined = (name for name, array in parts[0].items() if array.ndim and array.shape[0] == batch)
        super().__init__({name: np.concatenate([part[name] for part in parts])[:rows] for name in joined})
        self._alone, self._batch = parts[0].keys() - self.keys(), batch

    def __missing__(self, name: str) -> Array:
        if name not in self._alone:
            raise KeyError(name)
        raise SourceError(
            f"The model takes {self._batch} row{'s'[: self._batch > 1]} at a time, and its output {name} has none: "
            "the answers for all rows cannot be put together."
        )


def _predict(runner: Runner, batch: int) -> Predict:
    """Return what an evaluator calls: it takes any number of rows, also of a model that takes `batch` (0: any)."""

    def predict(inputs: Tensors) -> dict[str, Array]:
        bound = bind(list(inputs.items()), runner.interface.inputs)
        rows = _rows(bound)
        if not batch or not rows or rows == batch:
            return runner.infer(bound)
        return _Parts([runner.infer(_part(bound, start, batch)) for start in range(0, rows, batch)], rows, batch)

    return predict


def _rows(inputs: Tensors) -> int:
    """Return the size that all inputs have in common on axis 0; 0 where they have none."""
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _fixed_batch(interface: Interface) -> int:
    """Return the size at which a file fixes axis 0 of all its inputs; 0 where it does not."""
    sizes = {spec.shape[0] if spec.shape else 0 for spec in interface.inputs}
    size = sizes.pop() if len(sizes) == 1 else 0
    return size if isinstance(size, int) else 0


def _part(inputs: Tensors, start: int, count: int) -> dict[str, Array]:
    """Return some rows; the last one is repeated where there are too few."""
    found = {}
    for name, array in inputs.items():
        part = array[start : start + count]
        missing = count - len(part)
        found[name] = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
    return found


def _answers(predict: Predict, inputs: Tensors) -> dict[str, Array]:
    try:
        return predict(inputs)
    except (RegistryExportError, MemoryError):
        raise
    except Exception as error:
        raise EvaluationError(f"The model fails on the samples: {one_line(error)}") from error


def _called(name: str, predict: Predict, inputs: Tensors, labels: Array | None) -> dict[str, float]:
    try:
        returned = called(
            resolve(name, EVALUATE),
            (predict, inputs, None if labels is None else np.array(labels)),
            f"{EVALUATE} {name}",
            "a dict of numbers by name",
        )
    except SourceError as error:
        raise EvaluationError(error.message, remedy=error.remedy) from error
    return checked(returned, f"{EVALUATE} {name}")


def checked(returned: object, what: str) -> dict[str, float]:
    """Check what an evaluator returned.

    Args:
        returned: Should be a mapping of names to finite numbers.
        what: What refusals call it.

    Raises:
        EvaluationError: It is none; names what is wrong.
    """
    if not isinstance(returned, Mapping) or not 0 < len(returned) <= _MOST_METRICS:
        found = f"{len(returned)} entries" if isinstance(returned, Mapping) else f"a {type(returned).__name__}"
        raise EvaluationError(f"{what} returns {found}, not a dict of 1 to {_MOST_METRICS} numbers by name.")
    metrics: dict[str, float] = {}
    for name, value in returned.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise EvaluationError(f"{what} calls a metric {name!r}: use letters, digits, _, . and -.")
        if name in _OURS:
            raise EvaluationError(f"{what} calls a metric {name}, which every export has: give it another name.")
        number = value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value
        if not isinstance(number, numbers.Real) or not math.isfinite(number):
            raise EvaluationError(f"{what} returns {number!r} for {name}, which is no finite number.")
        metrics[name] = float(number)
    return metrics
