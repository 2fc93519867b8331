"""LSTM, GRU and RNN as loops over time.

A loop writes each step's result into a tensor of the full length: TensorFlow's own growing lists have no
form in TensorFlow Lite where the batch is open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from registry_export_plugins._onnx_to_tf.common import Node, operator, sizes

Step = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""From what the input gives at one time and the state before, to the state after; the first is the output."""


def activation(name: str, alpha: float | None = None, beta: float | None = None) -> Callable[[Any], Any]:
    """Return an activation function by ONNX's name."""
    import tensorflow as tf

    functions: dict[str, Callable[[Any], Any]] = {
        "sigmoid": tf.sigmoid,
        "tanh": tf.tanh,
        "relu": tf.nn.relu,
        "softsign": tf.nn.softsign,
        "softplus": tf.math.softplus,
        "affine": lambda x: (1.0 if alpha is None else alpha) * x + (0.0 if beta is None else beta),
        "hardsigmoid": lambda x: tf.clip_by_value(
            (0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0.0, 1.0
        ),
        "leakyrelu": lambda x: tf.nn.leaky_relu(x, 0.01 if alpha is None else alpha),
        "elu": tf.nn.elu,
        "scaledtanh": lambda x: (1.0 if alpha is None else alpha) * tf.tanh((1.0 if beta is None else beta) * x),
        "thresholdedrelu": lambda x: tf.where(x > (1.0 if alpha is None else alpha), x, tf.zeros_like(x)),
    }
    return functions[name.lower()]


def _activations(node: Node, direction: int, default: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    count = len(default)
    names = (node.get("activations") or list(default) * 2)[direction * count : (direction + 1) * count]
    alphas = list(node.get("activation_alpha") or [])[direction * count : (direction + 1) * count]
    betas = list(node.get("activation_beta") or [])[direction * count : (direction + 1) * count]
    padded = zip(names, alphas + [None] * count, betas + [None] * count, strict=False)
    return [_limited(node, activation(name, alpha, beta)) for name, alpha, beta in padded]


def _limited(node: Node, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import tensorflow as tf

    limit = node.get("clip")
    return function if limit is None else lambda x: function(tf.clip_by_value(x, -limit, limit))


def over_time(values: Any, states: Sequence[Any], step: Step, lengths: Any) -> tuple[Any, list[Any]]:
    """Run a step over the first axis.

    Args:
        values: What the input gives each step: (time, batch, ...).
        states: The initial states: (batch, hidden) each.
        step: Computes the next states.
        lengths: How many steps each row of the batch has; None for all.

    Returns:
        The first state at each time (time, batch, hidden), zero beyond a row's length, and the last states.
    """
    import tensorflow as tf

    time = sizes(values)[0]
    batch, hidden = sizes(states[0])
    outputs = tf.zeros(tf.stack([time, batch, hidden]), values.dtype)

    def body(position: Any, outputs: Any, *state: Any) -> tuple[Any, ...]:
        following = list(step(values[position], state))
        written = following[0]
        if lengths is not None:
            alive = (position < lengths)[:, None]
            following = [tf.where(alive, new, old) for new, old in zip(following, state, strict=True)]
            written = tf.where(alive, written, tf.zeros_like(written))
        outputs = tf.tensor_scatter_nd_update(outputs, tf.reshape(position, [1, 1]), written[None])
        return (position + 1, outputs, *following)

    open_state = [tf.TensorShape([None, state.shape[-1]]) for state in states]
    _, outputs, *last = tf.while_loop(
        lambda position, *_: position < time,
        body,
        (tf.constant(0), outputs, *states),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None, states[0].shape[-1]]), *open_state),
    )
    outputs.set_shape([values.shape[0], values.shape[1], states[0].shape[-1]])
    for state in last:
        state.set_shape([values.shape[1], states[0].shape[-1]])
    return outputs, last


def _run(
    node: Node,
    x: Any,
    weight: Any,
    lengths: Any,
    initial: Sequence[Any],
    make: Callable[[int], tuple[Callable[[Any], Any], Step]],
) -> list[Any]:
    """Run every direction and put the results in ONNX's order of axes.

    `make` gives, for a direction, what the whole input is turned into, and the step.
    """
    import tensorflow as tf

    batch_first = bool(node.get("layout", 0))
    if batch_first:
        x = tf.transpose(x, [1, 0, 2])
        initial = [None if state is None else tf.transpose(state, [1, 0, 2]) for state in initial]
    lengths = None if lengths is None else tf.cast(lengths, tf.int32)
    hidden = node.get("hidden_size")
    sequences, finals = [], []
    for direction in range(weight.shape[0]):
        backwards = direction == 1 or node.get("direction", "forward") == "reverse"
        project, step = make(direction)
        given = _reversed(x, lengths) if backwards else x
        zero = tf.zeros(tf.stack([sizes(x)[1], hidden]), x.dtype)
        zero.set_shape([x.shape[1], hidden])
        states = [zero if state is None else state[direction] for state in initial]
        outputs, last = over_time(project(given), states, step, lengths)
        sequences.append(_reversed(outputs, lengths) if backwards else outputs)
        finals.append(last)
    sequence = tf.stack(sequences, 1)
    states = [tf.stack([last[i] for last in finals]) for i in range(len(initial))]
    if batch_first:
        sequence = tf.transpose(sequence, [2, 0, 1, 3])
        states = [tf.transpose(state, [1, 0, 2]) for state in states]
    return [sequence, *states]


def _reversed(x: Any, lengths: Any) -> Any:
    import tensorflow as tf

    return tf.reverse(x, [0]) if lengths is None else tf.reverse_sequence(x, lengths, seq_axis=0, batch_axis=1)


def _projection(weight: Any, bias: Any) -> Callable[[Any], Any]:
    """Multiply the whole input at once: one large product instead of one per step."""
    import tensorflow as tf

    return lambda x: tf.matmul(x, weight, transpose_b=True) + (0.0 if bias is None else bias)


@operator("LSTM")
def _lstm(
    node: Node,
    x: Any,
    weight: Any,
    recurrence: Any,
    bias: Any = None,
    lengths: Any = None,
    hidden: Any = None,
    cell: Any = None,
    peepholes: Any = None,
) -> list[Any]:
    import tensorflow as tf

    size = node.get("hidden_size")

    def make(direction: int) -> tuple[Callable[[Any], Any], Step]:
        f, g, h = _activations(node, direction, ("Sigmoid", "Tanh", "Tanh"))
        both = None if bias is None else bias[direction, : 4 * size] + bias[direction, 4 * size :]
        peep = None if peepholes is None else tf.split(peepholes[direction], 3)

        def step(z: Any, state: Sequence[Any]) -> Sequence[Any]:
            before, memory = state
            i, o, keep, new = tf.split(z + tf.matmul(before, recurrence[direction], transpose_b=True), 4, -1)
            if peep is not None:
                i, keep = i + peep[0] * memory, keep + peep[2] * memory
            entering = f(i)
            leaving = 1 - entering if node.get("input_forget", 0) else f(keep)
            memory = leaving * memory + entering * g(new)
            shown = f(o if peep is None else o + peep[1] * memory)
            return shown * h(memory), memory

        return _projection(weight[direction], both), step

    return _run(node, x, weight, lengths, [hidden, cell], make)


@operator("GRU")
def _gru(
    node: Node, x: Any, weight: Any, recurrence: Any, bias: Any = None, lengths: Any = None, hidden: Any = None
) -> list[Any]:
    import tensorflow as tf

    size = node.get("hidden_size")

    def make(direction: int) -> tuple[Callable[[Any], Any], Step]:
        f, g = _activations(node, direction, ("Sigmoid", "Tanh"))
        inner = None if bias is None else bias[direction, : 3 * size]
        outer = tf.zeros([3 * size], x.dtype) if bias is None else bias[direction, 3 * size :]
        gates, candidate = recurrence[direction, : 2 * size], recurrence[direction, 2 * size :]

        def step(z: Any, state: Sequence[Any]) -> Sequence[Any]:
            (before,) = state
            update, reset = tf.split(
                f(z[:, : 2 * size] + tf.matmul(before, gates, transpose_b=True) + outer[: 2 * size]), 2, -1
            )
            last = outer[2 * size :]
            if node.get("linear_before_reset", 0):
                recurrent = reset * (tf.matmul(before, candidate, transpose_b=True) + last)
            else:
                recurrent = tf.matmul(reset * before, candidate, transpose_b=True) + last
            return ((1 - update) * g(z[:, 2 * size :] + recurrent) + update * before,)

        return _projection(weight[direction], inner), step

    return _run(node, x, weight, lengths, [hidden], make)


@operator("RNN")
def _rnn(
    node: Node, x: Any, weight: Any, recurrence: Any, bias: Any = None, lengths: Any = None, hidden: Any = None
) -> list[Any]:
    import tensorflow as tf

    size = node.get("hidden_size")

    def make(direction: int) -> tuple[Callable[[Any], Any], Step]:
        (f,) = _activations(node, direction, ("Tanh",))
        both = None if bias is None else bias[direction, :size] + bias[direction, size:]

        def step(z: Any, state: Sequence[Any]) -> Sequence[Any]:
            return (f(z + tf.matmul(state[0], recurrence[direction], transpose_b=True)),)

        return _projection(weight[direction], both), step

    return _run(node, x, weight, lengths, [hidden], make)
