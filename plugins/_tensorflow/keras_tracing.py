"""How a Keras model is changed while it is traced, so that what comes out runs everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def portable(model: Any) -> Iterator[None]:
    """Trace what runs everywhere: no XLA-only parts, no bit arithmetic, no layer that is wrong for open lengths."""
    import keras
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as backend

    eagerly = tf.config.functions_run_eagerly()
    signbit = backend.signbit
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.TimeDistributed)]
    # Keras compiles grouped convolutions with XLA, in functions that converters cannot look into; run as
    # plain Python they become part of the graph around them.
    tf.config.run_functions_eagerly(True)
    for layer in layers:
        layer.call = _merged_time(layer)
    # Keras reads the sign out of the bits, to tell -0.0 from 0.0 in argmax; no other format has the operators.
    backend.signbit = lambda x: tf.less(x, tf.zeros((), x.dtype))
    try:
        yield
    finally:
        backend.signbit = signbit
        tf.config.run_functions_eagerly(eagerly)
        for layer in layers:
            del layer.call


def _merged_time(layer: Any) -> Callable[..., Any]:
    """Apply a layer to all times at once: Keras repeats the first axis instead of the second where both are open."""
    import tensorflow as tf

    original = layer.call

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if mask is not None or None in inputs.shape[2:]:
            return original(inputs, training=training, mask=mask)
        arguments = {"training": training} if layer.layer._call_has_training_arg else {}
        result = layer.layer.call(tf.reshape(inputs, [-1, *inputs.shape[2:]]), **arguments)
        restored = tf.reshape(result, tf.concat([tf.shape(inputs)[:2], tf.shape(result)[1:]], 0))
        restored.set_shape([*inputs.shape[:2], *result.shape[1:]])
        return restored

    return call


@contextmanager
def unrolled(model: Any) -> Iterator[bool]:
    """Make every recurrent layer repeat its step instead of looping, where lengths are fixed.

    Yields:
        Whether the model has recurrent layers at all.
    """
    from keras.src import backend

    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "unroll")]
    before = [layer.unroll for layer in layers]
    original = backend.rnn
    for layer in layers:
        layer.unroll = True
    backend.rnn = _turned(original)
    try:
        yield bool(layers)
    finally:
        backend.rnn = original
        for layer, value in zip(layers, before, strict=True):
            layer.unroll = value


def _turned(rnn: Callable[..., Any]) -> Callable[..., Any]:
    """Give the inputs and the mask of a layer that goes backwards turned round, and let it go forwards.

    It is the same, but Keras's unrolled loop forgets to turn the mask when it writes zeros for masked steps, as
    `Bidirectional` has it do.
    """
    import tensorflow as tf
    from keras import tree

    def forwards(step: Any, inputs: Any, *args: Any, go_backwards: bool = False, mask: Any = None, **rest: Any) -> Any:
        if go_backwards and mask is not None:
            axis = 0 if rest.get("time_major") else 1
            inputs = tree.map_structure(lambda tensor: tf.reverse(tensor, [axis]), inputs)
            go_backwards, mask = False, tf.reverse(mask, [axis])
        return rnn(step, inputs, *args, go_backwards=go_backwards, mask=mask, **rest)

    return forwards
