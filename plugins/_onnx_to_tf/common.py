"""What the translators of ONNX operators share: their register, constants, layouts, partly known shapes.

A translator takes the node and its inputs as TensorFlow tensors (None for an absent one) and returns one
tensor, or a list for several outputs. Shapes that are known while translating stay Python numbers, so
that as little arithmetic on shapes as possible ends up in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from registry_export.errors import UnsupportedModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Translator: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Node:
    """One operator of the graph.

    Attributes:
        op_type: The operator.
        name: The node's name, for messages.
        attributes: Values as Python objects; strings decoded.
        opset: Version of the operator's domain.
        outputs: Names of its outputs; empty for one that is not used.
    """

    op_type: str
    name: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value, or the default that the operator's definition gives."""
        return self.attributes.get(name, default)

    def refuse(self, reason: str) -> UnsupportedModelError:
        """Make the error that says what of this node cannot be translated."""
        return UnsupportedModelError(f"The ONNX operator {self.op_type} ({self.name}) cannot be translated: {reason}.")


@dataclass(frozen=True)
class Operator:
    """A registered translator.

    Attributes:
        function: The translator.
        elementwise: Whether it treats every element alike, so that the order of axes does not matter.
        images: Whether it takes and gives `Image` values as they are.
    """

    function: Translator
    elementwise: bool = False
    images: bool = False


OPERATORS: dict[tuple[str, str], Operator] = {}
"""Translators by domain and operator type."""


def operator(
    *names: str, elementwise: bool = False, images: bool = False, domain: str = ""
) -> Callable[[Translator], Translator]:
    """Register a translator for one or several operators."""

    def register(function: Translator) -> Translator:
        for name in names:
            OPERATORS[domain, name] = Operator(function, elementwise, images)
        return function

    return register


@dataclass
class Weight:
    """A large initializer: becomes a variable when it is used, with its axes in the order its user wants."""

    name: str
    array: NDArray[Any]
    _variable: Any = None
    _derived: dict[str, Weight] = field(default_factory=dict)

    def tensor(self) -> Any:
        """Return the value of the variable that holds the weight."""
        import tensorflow as tf

        if self._variable is None:
            with tf.init_scope():
                self._variable = tf.Variable(self.array, trainable=False, name="weight")
        return tf.convert_to_tensor(self._variable)

    def derived(self, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Weight:
        """Return the weight changed once, here, and not in every call of the model.

        Args:
            name: Names what `change` does, so that two users share the result.
            change: Reorders the array's axes.
        """
        if name not in self._derived:
            self._derived[name] = Weight(self.name, np.ascontiguousarray(change(self.array)))
        return self._derived[name]


class Image:
    """A tensor of rank 3 or more that is held with its channels last, as TensorFlow's kernels want it."""

    def __init__(self, last: Any) -> None:
        self.last = last
        self._first: Any = None

    @property
    def first(self) -> Any:
        """The tensor with the channels at axis 1, as ONNX has it."""
        if self._first is None:
            self._first = channels_first(self.last)
        return self._first


def channels_last(value: Any) -> Any:
    """Move axis 1 to the end."""
    import tensorflow as tf

    if isinstance(value, Image):
        return value.last
    rank = value.shape.rank
    return tf.transpose(value, [0, *range(2, rank), 1])


def channels_first(tensor: Any) -> Any:
    """Move the last axis to axis 1."""
    import tensorflow as tf

    rank = tensor.shape.rank
    return tf.transpose(tensor, [0, rank - 1, *range(1, rank - 1)])


def is_constant(value: Any) -> bool:
    """Whether a value is known while translating."""
    import tensorflow as tf

    return tf.is_tensor(value) and not tf.is_symbolic_tensor(value) and not isinstance(value, tf.Variable)


def folding(*values: Any) -> Any:
    """Return a context in which what is known is computed at once and does not enter the graph."""
    import tensorflow as tf

    return tf.init_scope() if all(value is None or is_constant(value) for value in values) else nullcontext()


def embedded(value: Any) -> Any:
    """Write a known tensor into the graph that is being traced.

    TensorFlow would otherwise capture it as a hidden input of the function, which converters do not fold.
    """
    import tensorflow as tf

    if isinstance(value, Image | Weight) or not is_constant(value) or tf.executing_eagerly():
        return value
    return tf.constant(value.numpy())


def static(value: Any) -> NDArray[Any] | None:
    """Return the value of a tensor where it is known while translating."""
    import tensorflow as tf

    if value is None:
        return None
    if isinstance(value, Weight):
        return value.array
    if is_constant(value):
        return np.asarray(value.numpy())
    known = tf.get_static_value(value)
    return None if known is None else np.asarray(known)


def numbers(node: Node, value: Any, what: str) -> list[int]:
    """Return a list of integers that must be known while translating.

    Raises:
        UnsupportedModelError: It is computed by the model.
    """
    known = static(value)
    if known is None:
        raise node.refuse(f"its {what} are computed by the model")
    return [int(number) for number in np.atleast_1d(known)]


def axes_of(node: Node, value: Any, rank: int) -> list[int] | None:
    """Read `axes` from an input (newer opsets) or the attribute, as non-negative numbers; None if absent."""
    axes = numbers(node, value, "axes") if value is not None else node.get("axes")
    if axes is None:
        return None
    return [int(axis) % rank for axis in axes]


def sizes(tensor: Any) -> list[Any]:
    """Return each size of a tensor: a number where it is known, else a scalar int32 tensor."""
    import tensorflow as tf

    known = tensor.shape.as_list()
    if all(size is not None for size in known):
        return list(known)
    shape = tf.shape(tensor)
    return [shape[axis] if size is None else size for axis, size in enumerate(known)]


def partly_known(value: Any) -> list[int | None] | None:
    """Return what is known of a vector of sizes; None where not even its length is."""
    from tensorflow.python.framework import tensor_util

    known = static(value)
    if known is not None:
        return [int(number) for number in np.atleast_1d(known)]
    if value.shape.rank != 1 or value.shape[0] is None:
        return None
    try:
        shape = tensor_util.constant_value_as_shape(value)
    except (ValueError, TypeError):
        return [None] * int(value.shape[0])
    return list(shape.as_list()) if shape.rank is not None else [None] * int(value.shape[0])


def constant(array: Any, dtype: Any = None) -> Any:
    """Make a tensor whose value is known while translating."""
    import tensorflow as tf

    with tf.init_scope():
        return tf.constant(array, dtype)


def to_dtype(element_type: int) -> Any:
    """Return TensorFlow's type for ONNX's number of an element type."""
    import tensorflow as tf
    from onnx import TensorProto

    if element_type == TensorProto.BFLOAT16:
        return tf.bfloat16
    if element_type == TensorProto.STRING:
        return tf.string
    from onnx.helper import tensor_dtype_to_np_dtype

    return tf.as_dtype(tensor_dtype_to_np_dtype(element_type))


def normalized(indices: Any, size: Any) -> Any:
    """Turn negative indices into positive ones."""
    import tensorflow as tf

    known = static(indices)
    if known is not None and (known >= 0).all():
        return indices
    return tf.where(indices < 0, indices + tf.cast(size, indices.dtype), indices)


def product(values: Sequence[Any]) -> Any:
    """Multiply sizes, numbers or tensors."""
    result: Any = 1
    for value in values:
        result = result * value
    return result


class Sequenced(list[Any]):
    """An ONNX sequence of tensors whose length is known while translating."""


def plain(value: Any) -> Any:
    """Return a value as a tensor in ONNX's order of axes."""
    if isinstance(value, Image):
        return value.first
    if isinstance(value, Weight):
        return value.tensor()
    return value
