"""What a rule says of how good a model is: who measures it, where the labels are, and what an export may lose of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVALUATE = "evaluate"
MAX_DROP = "max_drop"
LABELS = "labels"
"""The key of a rule's samples, and the name that an archive gives the labels where the rule names none."""

ACCURACY, MAE = "accuracy", "mae"
"""What is measured of labelled samples: the share of rows whose class is right, and the mean absolute error."""

SMALL_IS_BETTER = frozenset({MAE})
"""Metrics of ours that an export worsens by raising them."""


@dataclass(frozen=True)
class EvaluationSetup:
    """How the source and every export are evaluated.

    Attributes:
        evaluate: `package.module:callable` that measures; empty: labelled samples are measured as they fit.
        labels: The array of the samples that holds the labels; empty: the one called `labels`, where there is one.
        max_drop: By metric, how much less than the source's an export's may be; of a metric that is better
            small, how much more, with a minus before it.
    """

    evaluate: str = ""
    labels: str = ""
    max_drop: Mapping[str, float] = field(default_factory=dict)

    def falls(self, metric: str) -> bool:
        """Whether a metric is better large, as far as its name or the rule says."""
        return metric not in SMALL_IS_BETTER and self.max_drop.get(metric, 0.0) >= 0


NO_EVALUATION = EvaluationSetup()
"""A rule that says nothing of it."""
