"""Translates ONNX graphs to TensorFlow functions: dynamic sizes kept, layouts at the interface as in ONNX.

Every operator becomes the TensorFlow operations that compute the same; what is known while translating
is computed here and not in the graph. Model-local functions are inlined first, and an operator that has no
translator but is defined by ONNX as a function of simpler ones is expanded by that definition.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, UnsupportedModelError
from registry_export_plugins._onnx_to_tf.common import to_dtype
from registry_export_plugins._onnx_to_tf.graph import missing, prepare
from registry_export_plugins._onnx_to_tf.interpreter import Interpreter
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, dimensions, trace


def translate(path: Path, interface: Interface | None = None) -> TensorFlowFunction:
    """Translate an ONNX file.

    Args:
        path: The `.onnx` file; external data beside it.
        interface: Names and order to keep, and sizes to fix where the file leaves them open.

    Raises:
        UnsupportedModelError: Operators have no translation; names their types and nodes.
        ConversionError: TensorFlow refused what an operator became.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, onnx.onnx_cpp2py_export.checker.ValidationError) as error:
        raise SourceError(f"The ONNX file {path.name} cannot be read: {error}") from error
    return translate_model(model, interface)


def translate_model(model: Any, interface: Interface | None = None) -> TensorFlowFunction:
    """Translate a `ModelProto`; see `translate`."""
    import tensorflow as tf

    _import_translators()
    model = prepare(model)
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
    unknown = missing(model.graph, opsets)
    if unknown:
        listed = ", ".join(f"{name} ({', '.join(places[:3])})" for name, places in sorted(unknown.items()))
        raise UnsupportedModelError(f"These ONNX operators have no translation to TensorFlow: {listed}.")
    owner = tf.Module()
    graph = Interpreter(model.graph, opsets)
    owner.graph = graph  # A traced function does not keep its variables alive.
    own, inputs = _inputs(model.graph, interface)
    names = [value.name for value in model.graph.output]

    def call(*tensors: Any) -> list[Any]:
        return graph.run(model.graph, dict(zip(own, tensors, strict=True)))

    if interface is not None and {spec.name for spec in interface.outputs} == set(names):
        names = [spec.name for spec in interface.outputs]
        order = [[value.name for value in model.graph.output].index(name) for name in names]

        def ordered(*tensors: Any) -> list[Any]:
            results = call(*tensors)
            return [results[i] for i in order]

        return trace(ordered, inputs, names, owner)
    if interface is not None and len(interface.outputs) == len(names):
        names = [spec.name for spec in interface.outputs]
    return trace(call, inputs, names, owner)


def _import_translators() -> None:
    """Import the modules that register translators."""
    from registry_export_plugins._onnx_to_tf import (  # noqa: F401
        activation,
        control,
        convolution,
        elementwise,
        indexing,
        making,
        normalization,
        padding,
        pooling,
        quantization,
        recurrent,
        reduction,
        resize,
        sequence,
        shape,
        slicing,
    )


def _inputs(graph: Any, interface: Interface | None) -> tuple[list[str], tuple[TensorSpec, ...]]:
    """Return the graph's own names of its inputs, and what the interface calls and asks of each.

    The interface decides the order; where its names are not the graph's, the order of both is the same.
    """
    initialized = {tensor.name for tensor in graph.initializer}
    found = {value.name: _input(value) for value in graph.input if value.name not in initialized}
    if interface is None or len(interface.inputs) != len(found):
        return list(found), tuple(found.values())
    own = [spec.name for spec in interface.inputs]
    if set(own) != set(found):
        own = list(found)
    pairs = zip(own, interface.inputs, strict=True)
    return own, tuple(_fixed(replace(found[name], name=spec.name), spec) for name, spec in pairs)


def _input(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise UnsupportedModelError(f"The ONNX input {value.name} is a sequence, a map or optional, not a tensor.")
    shape = None
    if tensor.HasField("shape"):
        known = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
        names = [size.dim_param for size in tensor.shape.dim]
        shape = tuple(
            name if size is None and name else made
            for size, name, made in zip(known, names, dimensions(value.name, known), strict=True)
        )
    return TensorSpec(value.name, to_dtype(tensor.elem_type).name, shape)


def _fixed(found: TensorSpec, asked: TensorSpec) -> TensorSpec:
    if found.shape is None or asked.shape is None or len(found.shape) != len(asked.shape):
        return found
    pairs = zip(found.shape, asked.shape, strict=True)
    return TensorSpec(found.name, found.dtype, tuple(own if isinstance(own, int) else said for own, said in pairs))
