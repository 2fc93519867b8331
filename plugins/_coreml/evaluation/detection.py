"""Suppression of boxes that overlap better ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, bounded, flag, integer, number, operator


@operator()
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Any,
    max_boxes: Any,
    release: int,
    score_threshold: Any = None,
    per_class_suppression: Any = False,
) -> tuple[Tensor, ...]:
    """Select boxes (centre x and y, width, height) by their best score.

    Since iOS 17 the boxes lie on the last axis, and the number of those selected is not told.
    """
    late = release > 16
    if late:
        boxes, scores = np.swapaxes(boxes, 1, 2), np.swapaxes(scores, 1, 2)
    count = integer(max_boxes)
    least = -np.inf if score_threshold is None else number(score_threshold)
    bounded((len(boxes), count, scores.shape[2] + 4))
    found_boxes = np.zeros((len(boxes), count, 4), np.float32)
    found_scores = np.zeros((len(boxes), count, scores.shape[2]), np.float32)
    indices = np.full((len(boxes), count), -1, np.int32)
    numbers = np.zeros(len(boxes), np.int32)
    for row, (own, marks) in enumerate(zip(boxes, scores, strict=True)):
        kept = _kept(own, marks, number(iou_threshold), least, flag(per_class_suppression))[:count]
        found_boxes[row, : len(kept)], found_scores[row, : len(kept)] = own[kept], marks[kept]
        indices[row, : len(kept)], numbers[row] = kept, len(kept)
    if late:
        return np.swapaxes(found_boxes, 1, 2), np.swapaxes(found_scores, 1, 2), indices
    return found_boxes, found_scores, indices, numbers


def _kept(boxes: Tensor, scores: Tensor, most: float, least: float, per_class: bool) -> list[int]:
    """Return the positions of the boxes that stay, the best first."""
    best, classes = scores.max(1), scores.argmax(1)
    waiting = np.argsort(-best, kind="stable")
    waiting = waiting[best[waiting] >= least]
    kept: list[int] = []
    while waiting.size:
        first, waiting = int(waiting[0]), waiting[1:]
        kept.append(first)
        overlapping = _overlaps(boxes[first], boxes[waiting]) > most
        if per_class:
            overlapping &= classes[waiting] == classes[first]
        waiting = waiting[~overlapping]
    return kept


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """Return the intersection of a box with others over their union."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    shared = np.prod(np.maximum(high - low, 0), 1)
    return np.asarray(shared / (box[2] * box[3] + others[:, 2] * others[:, 3] - shared))
