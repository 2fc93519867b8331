"""From TensorFlow to ONNX by tf2onnx, with names kept and every node checked.

tf2onnx writes opsets 9 to 18; newer ones are reached by `onnx.version_converter`, which goes up
reliably. It writes an operator that it does not know as an invalid node without raising, so what came
out is searched for such nodes and put through the full checker.

Sources: https://github.com/onnx/tensorflow-onnx, https://onnx.ai/onnx/api/version_converter.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionResult
from registry_export_plugins._tensorflow.functions import TensorFlowFunction, from_spec, requested
from registry_export_plugins._tensorflow.names import unique_names
from registry_export_plugins._tensorflow.onnx_operators import handlers

LOWEST_OPSET = 9
HIGHEST_NATIVE_OPSET = 18

_LARGEST_PROTOBUF = 2**31 - 1


def convert_keras(model: Any, output: Path, opset: int, interface: Interface) -> ConversionResult:
    """Write a Keras model as an ONNX file.

    Args:
        model: A `keras.Model` on the TensorFlow backend.
        output: The `.onnx` file to write.
        opset: Of the default domain; 9 or higher.
        interface: Inputs and outputs with the names to keep; named dimensions stay dynamic.

    Raises:
        UnsupportedModelError: Operators of the model have no ONNX form; names them.
        ConversionError: The opset is out of reach, or the result is not valid.
    """
    from registry_export_plugins._tensorflow.keras import to_function

    return convert_tf_function(to_function(model, interface), output, opset, interface)


def convert_tf_function(
    function: TensorFlowFunction, output: Path, opset: int, interface: Interface
) -> ConversionResult:
    """Write a TensorFlow function as an ONNX file. Arguments and errors as for `convert_keras`."""
    import onnx

    if opset < LOWEST_OPSET:
        raise ConversionError(
            f"TensorFlow models cannot be written as ONNX opset {opset}.",
            remedy=f"Ask for opset_version {LOWEST_OPSET} or higher.",
        )
    model = _from_function(function, min(opset, HIGHEST_NATIVE_OPSET), interface)
    _refuse_unknown(model)
    if opset > HIGHEST_NATIVE_OPSET:
        model = _raised(model, opset)
    _rename(model, function.interface, interface)
    _name_dimensions(model, interface)
    _check(model)
    onnx.save(model, str(output))
    return ConversionResult(notes=function.notes)


def _from_function(function: TensorFlowFunction, opset: int, interface: Interface) -> Any:
    """Run tf2onnx on a function whose inputs and outputs are numbered: names are put back afterwards."""
    import tensorflow as tf

    # It probes NumPy attributes that left with NumPy 2, and logs every pass at INFO.
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    asked = requested(function.interface.inputs, interface)
    specs = [from_spec(spec, f"input_{i}") for i, spec in enumerate(asked)]

    def serve(*tensors: Any) -> list[Any]:
        return [tf.identity(tensor, name=f"output_{i}") for i, tensor in enumerate(function(*tensors))]

    traced = tf.function(serve, input_signature=specs, autograph=False)
    try:
        model, _ = tf2onnx.convert.from_function(
            traced, input_signature=specs, opset=opset, custom_op_handlers=handlers()
        )
    # A graph rewriter of a stranger's library: whatever it raises is its refusal.
    except Exception as error:
        raise ConversionError(f"tf2onnx refused the model: {type(error).__name__}: {error}") from error
    _embed_captures(model, traced.get_concrete_function())
    return model


def _embed_captures(model: Any, concrete: Any) -> None:
    """Make initializers of the constants that TensorFlow captured as hidden inputs."""
    from onnx import numpy_helper

    captured = {_base(inner.name): outer for outer, inner in concrete.graph.captures if outer.dtype.is_numpy_compatible}
    used = {name for node in _nodes(model.graph) for name in node.input}
    for value in list(model.graph.input):
        tensor = captured.get(_base(value.name))
        if tensor is None or value.name.startswith("input_"):
            continue
        model.graph.input.remove(value)
        if value.name in used:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(tensor.numpy()), value.name))


def _raised(model: Any, opset: int) -> Any:
    from onnx import version_converter

    try:
        raised = version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise ConversionError(
            f"ONNX's version converter could not raise the model to opset {opset}: {error}",
            remedy=f"Ask for an opset_version from {LOWEST_OPSET} to {HIGHEST_NATIVE_OPSET}.",
        ) from error
    reached = next((entry.version for entry in raised.opset_import if entry.domain in ("", "ai.onnx")), None)
    if reached != opset:
        raise ConversionError(
            f"ONNX's version converter reached opset {reached} and not {opset}.",
            remedy=f"Ask for an opset_version from {LOWEST_OPSET} to {HIGHEST_NATIVE_OPSET}.",
        )
    return raised


def _rename(model: Any, found: Interface, interface: Interface) -> None:
    """Give the graph's inputs and outputs the interface's names, in its order."""
    graph = model.graph
    numbered = {f"input_{i}": spec.name for i, spec in enumerate(found.inputs)}
    new = {value.name: numbered[_base(value.name)] for value in graph.input}
    names = [spec.name for spec in (interface.outputs or found.outputs)]
    # One file has one set of names: an output that is called like an input is numbered.
    free = unique_names([*numbered.values(), *names])[len(numbered) :]
    new |= {value.name: name for value, name in zip(graph.output, free, strict=True)}
    taken = set(new.values())
    for node in _nodes(graph):
        for name in (*node.input, *node.output):
            if name in taken and name not in new:
                new[name] = f"{name}__inner"
    for node in _nodes(graph):
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
    order = {spec.name: i for i, spec in enumerate(interface.inputs or found.inputs)}
    values = sorted(graph.input, key=lambda value: order.get(value.name, len(order)))
    del graph.input[:]
    graph.input.extend(values)


def _base(name: str) -> str:
    return name.split(":")[0]


def _nodes(graph: Any) -> list[Any]:
    """All nodes of a graph and of its subgraphs."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                nodes.extend(_nodes(inner))
    return nodes


def _name_dimensions(model: Any, interface: Interface) -> None:
    """Write the interface's dimension names where a size is open (tf2onnx calls them `unk__12`)."""
    wanted = {spec.name: spec.shape for spec in (*interface.inputs, *interface.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        shape = wanted.get(value.name)
        sizes = value.type.tensor_type.shape.dim
        if shape is None or len(shape) != len(sizes):
            continue
        for size, name in zip(sizes, shape, strict=True):
            if isinstance(name, str) and not size.HasField("dim_value"):
                size.dim_param = name


def _refuse_unknown(model: Any) -> None:
    """Refuse operators that ONNX does not define, before a converter stumbles over them."""
    import onnx

    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    unknown: dict[str, str] = {}
    for node in _nodes(model.graph):
        domain = node.domain or "ai.onnx"
        known = domain != "ai.onnx" or onnx.defs.has(node.op_type, opsets["ai.onnx"], "")
        if not known or domain not in opsets:
            unknown.setdefault(node.op_type, node.name)
    if unknown:
        listed = ", ".join(f"{operator} ({name})" for operator, name in sorted(unknown.items()))
        raise UnsupportedModelError(f"tf2onnx has no ONNX form for these operators: {listed}.")


def _check(model: Any) -> None:
    """Run the full checker."""
    import onnx

    checked: Callable[..., None] = onnx.checker.check_model
    try:
        if model.ByteSize() < _LARGEST_PROTOBUF:
            checked(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ConversionError(f"tf2onnx wrote a model that is not valid ONNX: {error}") from error
