"""Control flow: If, Loop and Scan."""

from __future__ import annotations

from typing import Any

from registry_export_plugins._onnx_to_tf.common import Node, Sequenced, operator, plain, sizes, static

LONGEST_UNROLLED = 16
"""Loops that are known to run no more often than this are written out step by step."""


@operator("If")
def _if(node: Node, graph: Any, values: Any, condition: Any) -> list[Any]:
    import tensorflow as tf

    then_branch, else_branch = node.get("then_branch"), node.get("else_branch")
    known = static(condition)
    if known is not None:
        return list(graph.run(then_branch if bool(known.reshape(())) else else_branch, {}, values))
    outer = _materialized(values)
    result = tf.cond(
        tf.reshape(condition, []),
        lambda: graph.run(then_branch, {}, outer),
        lambda: graph.run(else_branch, {}, outer),
    )
    return list(result) if isinstance(result, list | tuple) else [result]


def _materialized(values: Any) -> dict[str, Any]:
    """Bring what a branch may use into the graph around it, where both branches can see it."""
    from registry_export_plugins._onnx_to_tf.common import Image

    return {name: plain(value) if isinstance(value, Image) else value for name, value in values.items()}


@operator("Loop")
def _loop(node: Node, graph: Any, values: Any, trips: Any = None, condition: Any = None, *carried: Any) -> list[Any]:
    import tensorflow as tf

    body = node.get("body")
    count = len(carried)
    outer = _materialized(values)
    names = [value.name for value in body.input]

    def once(position: Any, go: Any, state: Any) -> list[Any]:
        return list(graph.run(body, dict(zip(names, [position, go, *state], strict=True)), outer))

    known_trips, known_condition = static(trips), static(condition)
    if condition is None or known_condition is not None:
        unrolled = _unrolled(once, None if trips is None else known_trips, known_condition, list(carried), count)
        if unrolled is not None:
            return unrolled
    if any(isinstance(value, Sequenced) for value in carried):
        raise node.refuse("it carries a sequence from step to step, and how often it runs is not known")
    limit = tf.constant(2**31 - 1, tf.int64) if trips is None else tf.reshape(tf.cast(trips, tf.int64), [])
    go = tf.constant(True) if condition is None else tf.reshape(condition, [])
    return _looped(once, limit, go, list(carried), count)


def _unrolled(once: Any, trips: Any, condition: Any, state: list[Any], count: int) -> list[Any] | None:
    """Write out a loop of a few known steps whose condition is known at each."""
    import tensorflow as tf

    if trips is None or int(trips.reshape(())) > LONGEST_UNROLLED:
        return None
    go, scanned = condition is None or bool(condition.reshape(())), []
    for position in range(int(trips.reshape(()))):
        if not go:
            break
        with tf.init_scope():
            step, flag = tf.constant(position, tf.int64), tf.constant(True)
        following, *results = once(step, flag, state)
        known = static(following)
        if known is None:
            return None
        go, state = bool(known.reshape(())), results[:count]
        scanned.append(results[count:])
    if not scanned:
        return None
    return [*state, *(tf.stack(list(column)) for column in zip(*scanned, strict=True))]


def _looped(once: Any, limit: Any, go: Any, state: list[Any], count: int) -> list[Any]:
    """Write a loop whose collected results grow by one row each step."""
    import tensorflow as tf

    probe = tf.function(lambda *inner: once(inner[0], tf.constant(True), list(inner[1:])), autograph=False)
    open_state = [tf.TensorSpec(_open(value), value.dtype) for value in state]
    traced = probe.get_concrete_function(tf.TensorSpec([], tf.int64), *open_state)
    results = traced.structured_outputs[1 : 1 + count]
    collected = traced.structured_outputs[1 + count :]
    invariants = [_merged(_open(value), result.shape) for value, result in zip(state, results, strict=True)]
    rows = [_empty(spec) for spec in collected]
    row_shapes = [tf.TensorShape([None, *spec.shape.as_list()]) for spec in collected]

    def body(position: Any, go: Any, *inner: Any) -> tuple[Any, ...]:
        following, *outputs = once(position, go, list(inner[:count]))
        grown = [
            tf.concat([_fitting(tf, rows, row, position), row[None]], 0)
            for rows, row in zip(inner[count:], outputs[count:], strict=True)
        ]
        return (position + 1, tf.reshape(following, []), *outputs[:count], *grown)

    _, _, *final = tf.while_loop(
        lambda position, go, *_: tf.logical_and(go, position < limit),
        body,
        (tf.constant(0, tf.int64), go, *state, *rows),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), *invariants, *row_shapes),
    )
    return list(final)


def _open(value: Any) -> Any:
    """A state's shape with its sizes left open: a step may change them."""
    import tensorflow as tf

    rank = value.shape.rank
    return tf.TensorShape(None if rank is None else [None] * rank)


def _merged(first: Any, second: Any) -> Any:
    import tensorflow as tf

    return first if first.rank == second.rank else tf.TensorShape(None)


def _fitting(tf: Any, rows: Any, row: Any, position: Any) -> Any:
    """Give rows that are still none the sizes of the first one."""
    if row.shape.is_fully_defined():
        return rows
    return tf.reshape(rows, tf.concat([tf.cast(position, tf.int32)[None], tf.shape(row)], 0))


def _empty(spec: Any) -> Any:
    """No rows yet; sizes that a step decides start at 0."""
    import tensorflow as tf

    return tf.zeros([0, *[size or 0 for size in spec.shape.as_list()]], spec.dtype)


@operator("Scan")
def _scan(node: Node, graph: Any, values: Any, *inputs: Any) -> list[Any]:
    import tensorflow as tf

    body, scans = node.get("body"), node.get("num_scan_inputs")
    if node.opset < 9:
        raise node.refuse("the form it had before opset 9 is not known")
    states, sequences = list(inputs[: len(inputs) - scans]), list(inputs[len(inputs) - scans :])
    count, outer = len(states), _materialized(values)
    names = [value.name for value in body.input]
    axes = node.get("scan_input_axes") or [0] * scans
    backwards = node.get("scan_input_directions") or [0] * scans
    sequences = [_time_first(tf, x, axis, bool(back)) for x, axis, back in zip(sequences, axes, backwards, strict=True)]
    limit = tf.cast(sizes(sequences[0])[0], tf.int64)

    def once(position: Any, go: Any, state: Any) -> list[Any]:
        rows = [tf.gather(x, position) for x in sequences]
        return [go, *graph.run(body, dict(zip(names, [*state, *rows], strict=True)), outer)]

    results = _looped(once, limit, tf.constant(True), states, count)
    outputs = len(results) - count
    out_axes = node.get("scan_output_axes") or [0] * outputs
    out_backwards = node.get("scan_output_directions") or [0] * outputs
    stacked = [
        _time_back(tf, x, axis, bool(back))
        for x, axis, back in zip(results[count:], out_axes, out_backwards, strict=True)
    ]
    return [*results[:count], *stacked]


def _time_first(tf: Any, x: Any, axis: int, backwards: bool) -> Any:
    axis %= x.shape.rank
    moved = x if axis == 0 else tf.transpose(x, [axis, *[i for i in range(x.shape.rank) if i != axis]])
    return tf.reverse(moved, [0]) if backwards else moved


def _time_back(tf: Any, x: Any, axis: int, backwards: bool) -> Any:
    x = tf.reverse(x, [0]) if backwards else x
    rank = x.shape.rank
    axis %= rank
    order = list(range(1, rank))
    order.insert(axis, 0)
    return x if axis == 0 else tf.transpose(x, order)
