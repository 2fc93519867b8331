"""What a TensorFlow function computes: its operations' results, fetched from the graph with everything inlined.

Source: https://www.tensorflow.org/api_docs/python/tf/compat/v1/wrap_function#prune
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from registry_export.errors import VerificationError
from registry_export.format import Intermediate
from registry_export_plugins._tensorflow.functions import TensorFlowFunction

_FIRST = 16
_MOST_BYTES = 256_000_000
_MOST_AT_ONCE = 512
_NUMBER = re.compile(r"_\d+$")
_PLACES = frozenset({"Placeholder", "Const", "NoOp"})


def watched(
    function: TensorFlowFunction, tensors: Sequence[Any], layers: Collection[str] = ()
) -> Iterator[Intermediate]:
    """Run a function with its operations' results as outputs, as many at a time as memory holds.

    Args:
        function: With its variables; they become constants.
        tensors: One for each input, in order.
        layers: Names of the layers that made it: what an operation is called after tells which.

    Raises:
        VerificationError: TensorFlow cannot inline it.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        frozen = convert_variables_to_constants_v2(function.function, lower_control_flow=False)
    except (ValueError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise VerificationError(f"TensorFlow cannot inline the function: {str(error)[:300]}") from error
    given = dict(zip(function.arguments, tensors, strict=True))
    feeds = [tensor for tensor in frozen.inputs if tensor.dtype != tf.resource]
    keywords = list(function.function._arg_keywords or function.arguments)
    arrays = [given[keyword] for keyword in keywords[: len(feeds)]]
    operations, places = list(_live(frozen.graph, feeds)), _Layers(frozen.graph, layers)
    start, count = 0, _FIRST
    while start < len(operations):
        part = operations[start : start + count]
        fetches = [output for operation, _ in part for output in operation.outputs if output.dtype.is_floating]
        results = iter(frozen.prune(feeds, fetches)(*arrays) if fetches else ())
        size = 0
        for operation, after in part:
            for output in operation.outputs:
                array = next(results).numpy() if output.dtype.is_floating else None
                size += array.nbytes if array is not None else 0
                yield Intermediate(output.name, array, places.of(operation.name), operation.type, after)
        start += count
        count = max(1, min(_MOST_AT_ONCE, 2 * count, int(count * _MOST_BYTES / max(size, 1))))


def _live(graph: Any, feeds: Sequence[Any]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the operations that depend on the inputs, each with the results that it reads."""
    known = {tensor.name for tensor in feeds}
    made: set[str] = set()
    for operation in graph.get_operations():
        reads = {tensor.name for tensor in operation.inputs}
        if operation.type not in _PLACES and reads & (known | made):
            made.update(output.name for output in operation.outputs)
            yield operation, tuple(sorted(reads & made))


class _Layers:
    """Finds the layers that operations belong to, by the scopes in their names."""

    def __init__(self, graph: Any, layers: Collection[str]) -> None:
        self._layers = layers
        used = {scope for operation in graph.get_operations() for scope in operation.name.split("/")[:-1]}
        plain = {layer for layer in layers if not _NUMBER.search(layer)}
        # Keras numbers its scopes anew where they were used before: `dense_1` is then the layer `dense`.
        self._numbered = bool(plain) and not plain & used

    def of(self, name: str) -> str:
        """Return the path of the innermost layer of an operation; empty where none is known."""
        scopes = [_NUMBER.sub("", scope) if self._numbered else scope for scope in name.split("/")[:-1]]
        return "/".join(scope for scope in scopes if scope in self._layers)
