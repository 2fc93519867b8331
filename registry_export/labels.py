"""Labels beside a model's outputs: which output they are meant for, and how often or how far it is off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from registry_export.errors import EvaluationError
from registry_export.evaluation_setup import ACCURACY, LABELS, MAE
from registry_export.format import Array, Tensors

CHOICE = "The labels are compared with"
"""How a note on that begins."""

_LEAST_CLASSES = 2


@dataclass(frozen=True)
class Compared:
    """What came of it.

    Attributes:
        metrics: `accuracy`, the share of rows whose class is right; or `mae`, the mean absolute error.
        output: What the labels were compared with.
        note: A sentence where they fit other outputs too and nobody has said which is meant; else empty.
    """

    metrics: Mapping[str, float]
    output: str
    note: str = ""


def compared(outputs: Tensors, labels: Array, output: str = "", name: str = LABELS) -> Compared:
    """Compare an output with labels: the one that is called as they are, else the first that they fit.

    Args:
        outputs: By name, in order.
        labels: Whole numbers, of the shape of an output without its last axis: the classes of class scores. Or of
            an output's own shape: classes where both are whole numbers, else values.
        output: The one that is meant, where that is known; empty: it is found.
        name: What the samples call the labels.

    Raises:
        EvaluationError: They fit no output, or not the one that is meant, or name a class that there is not.
    """
    meant = output or (name if name in outputs else "")
    fitting = [found for found in outputs if meant in ("", found) and _fits(outputs[found], labels)]
    if not fitting:
        shapes = ", ".join(f"{name} {output.dtype} {output.shape}" for name, output in outputs.items())
        missed = f"not the output {meant}" if meant else "no output"
        raise EvaluationError(
            f"The labels ({labels.dtype} {labels.shape}) fit {missed} ({shapes}).",
            remedy="Give whole numbers for rows of class scores or values of an output's own shape, or write an "
            "`evaluate: package.module:callable`.",
        )
    chosen, *others = fitting
    note = (
        f"{CHOICE} {chosen}, the first output that they fit; they fit {', '.join(others)} too. Where another one is "
        "meant, call their array as it is called (samples: {path: ..., labels: NAME})."
    )
    return Compared(_metrics(chosen, outputs[chosen], labels), chosen, note if others else "")


def _fits(output: Array, labels: Array) -> bool:
    return _has_scores(output, labels) or (
        output.shape == labels.shape and _are_classes(output) == _are_classes(labels)
    )


def _has_scores(output: Array, labels: Array) -> bool:
    fits = output.ndim > 0 and output.shape[:-1] == labels.shape and output.shape[-1] >= _LEAST_CLASSES
    return fits and _are_classes(labels)


def _are_classes(array: Array) -> bool:
    return array.dtype.kind in "iub"


def _metrics(name: str, output: Array, labels: Array) -> dict[str, float]:
    if not labels.size:
        raise EvaluationError("The samples are empty.")
    if _has_scores(output, labels):
        if not 0 <= int(labels.min()) <= int(labels.max()) < output.shape[-1]:
            raise EvaluationError(f"The labels name classes beyond the {output.shape[-1]} of output {name}.")
        return {ACCURACY: float((output.argmax(axis=-1) == labels).mean())}
    if _are_classes(labels):
        return {ACCURACY: float((output == labels).mean())}
    return {MAE: float(np.abs(output.astype(np.float64) - labels.astype(np.float64)).mean())}
