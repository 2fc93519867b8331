"""Sequences of tensors whose length is known while translating."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry_export_plugins._onnx_to_tf.common import Node, Sequenced, constant, numbers, operator


@operator("SequenceConstruct")
def _sequence_construct(node: Node, *inputs: Any) -> list[Any]:
    return [Sequenced(inputs)]


@operator("SequenceEmpty")
def _sequence_empty(node: Node) -> list[Any]:
    return [Sequenced()]


@operator("SequenceAt")
def _sequence_at(node: Node, sequence: Any, position: Any) -> Any:
    return sequence[numbers(node, position, "positions")[0]]


@operator("SequenceInsert")
def _sequence_insert(node: Node, sequence: Any, value: Any, position: Any = None) -> list[Any]:
    result = Sequenced(sequence)
    place = len(result) if position is None else numbers(node, position, "positions")[0]
    result.insert(place + len(result) if place < 0 else place, value)
    return [result]


@operator("SequenceErase")
def _sequence_erase(node: Node, sequence: Any, position: Any = None) -> list[Any]:
    result = Sequenced(sequence)
    del result[-1 if position is None else numbers(node, position, "positions")[0]]
    return [result]


@operator("SequenceLength")
def _sequence_length(node: Node, sequence: Any) -> Any:
    return constant(np.int64(len(sequence)))


@operator("ConcatFromSequence")
def _concat_from_sequence(node: Node, sequence: Any) -> Any:
    import tensorflow as tf

    axis = node.get("axis")
    return tf.stack(list(sequence), axis) if node.get("new_axis", 0) else tf.concat(list(sequence), axis)


@operator("SplitToSequence")
def _split_to_sequence(node: Node, x: Any, lengths: Any = None) -> list[Any]:
    import tensorflow as tf

    axis = node.get("axis", 0) % x.shape.rank
    size = x.shape[axis]
    if size is None:
        raise node.refuse("the axis it splits has an open size")
    if lengths is None:
        parts = tf.split(x, size, axis)
        return [Sequenced(parts if node.get("keepdims", 1) else [tf.squeeze(part, axis) for part in parts])]
    known = numbers(node, lengths, "lengths")
    if lengths.shape.rank == 0:
        each = known[0]
        known = [each] * (size // each) + ([size % each] if size % each else [])
    return [Sequenced(tf.split(x, known, axis))]
