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
from registry_export.evaluation_setup import ACCURACY, EVALUATE, MAE
from registry_export.format import Array, Runner, Tensors
from registry_export.inference import Origin, first_run, one_line
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
_LEAST_CLASSES = 2


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
    """

    origin: Origin
    inputs: str
    sample: str = ""
    evidence: str = "random"
    labels: str = ""
    evaluate: str = ""
    search: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class Evaluated:
    """Metrics by name, and the folder of the inputs that they were taken on."""

    metrics: Mapping[str, float]
    inputs: str


def evaluated(arguments: Any) -> Evaluated:
    """Load a model and measure how good it is.

    Raises:
        EvaluationError: The callable fails or returns no numbers, or the labels fit no output.
    """
    request = msgspec.convert(arguments, EvaluationRequest)
    request.origin.enter()
    sys.path.extend(folder for folder in request.search if folder not in sys.path)
    format_ = format_named(discover_formats(), request.origin.format)
    labels = next(iter(read_tensors(Path(request.labels)).values())) if request.labels else None
    with request.origin.open(format_) as runner:
        folder = request.inputs or _found(request, runner)
        inputs = {name: np.array(array) for name, array in read_tensors(Path(folder)).items()}
        # Of a source the declared sizes bind nobody: it was run on all of these rows.
        predict = _predict(runner, request.origin.interface if request.inputs else Interface(()))
        if request.evaluate:
            return Evaluated(_called(request.evaluate, predict, inputs, labels), folder)
        if labels is None:
            raise EvaluationError("There are no labels to compare with.")
        return Evaluated(labelled(_answers(predict, inputs), np.array(labels)), folder)


def _found(request: EvaluationRequest, runner: Runner) -> str:
    """Write the inputs that a source finds for itself, with the dtypes that it takes."""
    base, evidence = base_inputs(runner, request.sample, request.evidence)
    base, _, _ = first_run(runner, base, evidence)
    folder = Path(request.folder, "inputs")
    write_tensors(folder, base)
    return str(folder)


def _predict(runner: Runner, interface: Interface) -> Predict:
    """Return what an evaluator calls: it takes any number of rows, also of a model whose batch is fixed."""

    def predict(inputs: Tensors) -> dict[str, Array]:
        bound = bind(list(inputs.items()), runner.interface.inputs)
        rows, fixed = _rows(bound), _fixed_batch(interface)
        if not fixed or not rows or rows == fixed:
            return runner.infer(bound)
        parts = [runner.infer(_part(bound, start, fixed)) for start in range(0, rows, fixed)]
        return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}

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


def labelled(outputs: Tensors, labels: Array) -> dict[str, float]:
    """Compare outputs with labels; the first output that fits them is the one that is meant.

    Args:
        outputs: By name, in order.
        labels: Whole numbers, of the shape of an output without its last axis: the classes of class scores. Or of
            an output's own shape: classes where both are whole numbers, else values.

    Returns:
        `accuracy`, the share of rows whose class is right; or `mae`, the mean absolute error.

    Raises:
        EvaluationError: They fit no output, or name a class that there is not.
    """
    are_classes = labels.dtype.kind in "iub"
    for name, output in outputs.items():
        if are_classes and output.shape[:-1] == labels.shape and output.ndim and output.shape[-1] >= _LEAST_CLASSES:
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < output.shape[-1]:
                raise EvaluationError(f"The labels name classes beyond the {output.shape[-1]} of output {name}.")
            return {ACCURACY: _share(output.argmax(axis=-1) == labels)}
        if output.shape == labels.shape and are_classes == (output.dtype.kind in "iub"):
            if are_classes:
                return {ACCURACY: _share(output == labels)}
            difference = np.abs(output.astype(np.float64) - labels.astype(np.float64))
            return checked({MAE: difference.mean() if difference.size else math.nan}, "the comparison with the labels")
    shapes = ", ".join(f"{name} {output.dtype} {output.shape}" for name, output in outputs.items())
    raise EvaluationError(
        f"The labels ({labels.dtype} {labels.shape}) fit no output ({shapes}).",
        remedy="Give whole numbers for rows of class scores or values of an output's own shape, or write an "
        "`evaluate: package.module:callable`.",
    )


def _share(right: Array) -> float:
    if not right.size:
        raise EvaluationError("The samples are empty.")
    return float(right.astype(np.float64).mean())
