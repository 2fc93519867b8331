"""Bringing an ONNX model to an opset, and checking what came of it.

Source: https://onnx.ai/onnx/api/version_converter.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import ModelProto

from registry_export.errors import ConversionError

LARGEST_IN_ONE_FILE = 1_500_000_000
"""Bytes of weights. Protobuf ends at 2 GiB; larger models keep their weights beside the file."""


LARGEST_IN_MEMORY = 256 << 20
"""Bytes of weights. What is done to a graph copies it several times, and larger weights lie beside it meanwhile."""


def is_heavy(size: int) -> bool:
    """Say whether so many bytes of weights are better kept beside the graph while something is done to it."""
    return size > min(LARGEST_IN_MEMORY, LARGEST_IN_ONE_FILE)


def too_large(size: int) -> bool:
    """Say whether so many bytes of weights are kept beside the file."""
    return size > LARGEST_IN_ONE_FILE


def opset_of(model: ModelProto) -> int:
    """Return the opset of the default domain; 0 where the model imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def to_opset(model: ModelProto, version: int) -> ModelProto:
    """Bring a model to an opset.

    ONNX's own converter first, then onnxscript's; downwards at last the same graph under the lower
    number, where the older operators are called in the same way. Each is believed only when the result
    says the right opset and passes the full check.

    Raises:
        ConversionError: None gets there.
    """
    if opset_of(model) == version:
        return model
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ConversionError(
            f"onnx {onnx.__version__} knows opsets up to {newest}, not {version}.",
            remedy="Ask for a lower opset_version, or install a newer onnx.",
        )
    problems = []
    for name, convert in (("onnx", _by_onnx), ("onnxscript", _by_onnxscript), ("as it is", _as_it_is)):
        try:
            converted = convert(model, version)
        except Exception as error:  # noqa: BLE001  converters raise whatever an operator's adapter raises; reported below
            problems.append(f"{name}: {first_line(error)}")
            continue
        if opset_of(converted) != version:
            problems.append(f"{name}: it returned opset {opset_of(converted)}")
            continue
        problem = problem_of(converted)
        if not problem:
            return converted
        problems.append(f"{name}: {problem}")
    raise ConversionError(
        f"Opset {version} is out of reach: the model comes as opset {opset_of(model)}, and neither converter "
        f"gets it from there ({'; '.join(problems)}).",
        remedy="Ask for another opset_version.",
    )


def _by_onnx(model: ModelProto, version: int) -> ModelProto:
    from onnx import version_converter

    converted: ModelProto = version_converter.convert_version(model, version)
    return _with_ir_version(converted)


def _by_onnxscript(model: ModelProto, version: int) -> ModelProto:
    import onnx_ir
    import onnxscript.version_converter

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    intermediate = onnx_ir.from_proto(model)
    onnxscript.version_converter.convert_version(intermediate, version, fallback=False)
    converted: ModelProto = onnx_ir.to_proto(intermediate)
    return _with_ir_version(converted)


def _as_it_is(model: ModelProto, version: int) -> ModelProto:
    """Import a lower opset for the same nodes, none of which may use what came later.

    Raises:
        ConversionError: A node does.
    """
    current = opset_of(model)
    if version > current:
        raise ConversionError("only a lower opset can do with the same nodes")
    for graph in graphs_of(model):
        for node in graph.node:
            newer = _newer_part(node, version, current)
            if newer:
                raise ConversionError(f"{node.op_type} {newer}")
    lowered = ModelProto()
    lowered.CopyFrom(model)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    return lowered


def _newer_part(node: Any, version: int, current: int) -> str:
    """Say what of a node an older opset does not have, or has otherwise; empty when nothing."""
    if node.domain not in ("", "ai.onnx"):
        return ""
    try:
        old = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return f"does not exist in opset {version}"
    new = onnx.defs.get_schema(node.op_type, current)
    given = {attribute.name for attribute in node.attribute}
    if given - set(old.attributes) or not old.min_input <= len(node.input) <= old.max_input:
        return f"is called otherwise in opset {version}"
    for name in set(old.attributes) & set(new.attributes) - given:
        if old.attributes[name].default_value != new.attributes[name].default_value:
            return f"has another default of {name} in opset {version}"
    return ""


def _with_ir_version(model: ModelProto) -> ModelProto:
    """Raise the IR version to what the opsets ask for; it is never lowered."""
    known = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx", "ai.onnx.ml")]
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(known))
    return model


def problem_of(model: ModelProto) -> str:
    """Run ONNX's full check and return what it finds; empty when the model is valid.

    A model whose weights are elsewhere, or too large to be checked in memory, is checked when it is written.
    """
    apart = any(tensor.data_location for graph in graphs_of(model) for tensor in graph.initializer)
    if apart or too_large(weight_bytes(model)):
        return ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return first_line(error)
    return ""


def graphs_of(model: ModelProto) -> Iterator[Any]:
    """Yield the main graph and every graph inside a node."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def weight_bytes(model: ModelProto) -> int:
    """Return the size of the weights; a model beyond protobuf's limit cannot tell its own."""
    return sum(len(tensor.raw_data) for graph in graphs_of(model) for tensor in graph.initializer)


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's class and the first line of its message that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
