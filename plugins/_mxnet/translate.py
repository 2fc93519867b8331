"""From a symbol and its parameters to an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from registry_export.entities import Interface
from registry_export.errors import SourceError, UnsupportedModelError
from registry_export.format import Array
from registry_export_plugins._mxnet import (
    elementwise,
    indexing,
    joining,
    layers,
    normalization,
    recurrent,
    reductions,
    shapes,
)
from registry_export_plugins._mxnet.builder import Builder
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node, Symbol, parameters_of, read_parameters, read_symbol
from registry_export_plugins._mxnet.signature import LABELLED, VARIABLE, distinct, input_names, input_specs, output_name

_TABLES = (elementwise, layers, normalization, shapes, joining, reductions, indexing, recurrent)
OPERATORS: Mapping[str, Translate] = {name: entry for table in _TABLES for name, entry in table.OPERATORS.items()}


def to_onnx(symbol_path: Path, interface: Interface) -> onnx.ModelProto:
    """Translate an MXNet model.

    Args:
        symbol_path: The `-symbol.json`; its parameters lie beside it.
        interface: What is known of the inputs, in any order, or in MXNet's where their names are others.

    Raises:
        SourceError: A file cannot be read, or the shape of an input is not known.
        UnsupportedModelError: An operator has no translation; it and its node are named.
    """
    symbol = read_symbol(symbol_path)
    parameters_path = parameters_of(symbol_path)
    if parameters_path is None:
        raise SourceError(f"{symbol_path.name} has no file of parameters beside it.")
    parameters = read_parameters(parameters_path)
    _refuse_unknown(symbol)
    builder = Builder()
    inputs = input_names(symbol, parameters)
    for spec in input_specs(symbol, parameters, inputs, interface):
        builder.input(spec.name, spec.dtype, spec.shape or ())
    values = _values(builder, symbol, parameters)
    outputs = []
    for number, which in symbol.heads:
        node = symbol.nodes[number]
        if which >= len(values[number]):
            raise node.unsupported(f"has no translation of its output {which}")
        outputs.append((values[number][which], output_name(node, which)))
    if any(builder.dtype(name) == np.float64 for name in inputs):
        outputs = [(builder.cast(v, np.float64) if _is_single(builder, v) else v, name) for v, name in outputs]
    return builder.model(inputs, list(zip((v for v, _ in outputs), distinct([n for _, n in outputs]), strict=True)))


def _is_single(builder: Builder, value: str) -> bool:
    return builder.dtype(value) == np.float32


def _refuse_unknown(symbol: Symbol) -> None:
    unknown = [node for node in symbol.nodes if node.op != VARIABLE and node.op not in OPERATORS]
    if unknown:
        raise unknown[0].unsupported()


def _values(builder: Builder, symbol: Symbol, parameters: Mapping[str, Array]) -> dict[int, tuple[str, ...]]:
    """Translate node by node; of each its outputs by number."""
    values: dict[int, tuple[str, ...]] = {}
    for number, node in enumerate(symbol.nodes):
        if node.op == VARIABLE:
            values[number] = (_variable(builder, node.name, parameters),)
            continue
        builder.enter(node.name)
        entries = node.inputs[:1] if node.op in LABELLED else node.inputs
        made = _translated(builder, node, [values[source][which] for source, which in entries])
        values[number] = (made,) if isinstance(made, str) else made
    return values


def _variable(builder: Builder, name: str, parameters: Mapping[str, Array]) -> str:
    """Return an input or a parameter. Doubles are computed as floats: few runtimes have layers of doubles."""
    builder.enter(name)
    if name in parameters:
        array = parameters[name]
        return builder.constant(array.astype(np.float32) if array.dtype == np.float64 else array, name=name)
    is_input = name in builder.types
    return builder.cast(name, np.float32) if is_input and builder.dtype(name) == np.float64 else name


def _translated(builder: Builder, node: Node, inputs: list[str]) -> str | tuple[str, ...]:
    try:
        return OPERATORS[node.op](builder, node, inputs)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UnsupportedModelError(
            f"MXNet's operator {node.op} (node {node.name}) has attributes that are not understood "
            f"({', '.join(f'{key}={value}' for key, value in node.attributes.items())}): {error!r}."
        ) from error


def precision_of(parameters: Mapping[str, Array]) -> str:
    """Name the precision that most of the weights have."""
    half = sum(array.size for array in parameters.values() if array.dtype == np.float16)
    return "fp16" if half * 2 > sum(array.size for array in parameters.values()) else "fp32"
