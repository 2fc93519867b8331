"""What a symbol and its parameters tell of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import SourceError
from registry_export.format import Array
from registry_export_plugins._mxnet.files import Node, Symbol

VARIABLE = "null"
"""The operator of a variable."""

_LOSSES = ("SoftmaxOutput", "Softmax", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput")
LABELLED = (*_LOSSES, "SVMOutput")
"""Operators whose second input is what training compared with; inference does without."""

_DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
_RNN_OUTPUTS = ("output", "state_output", "statecell_output")


def input_names(symbol: Symbol, parameters: Mapping[str, Array]) -> list[str]:
    """Return the variables that are inputs: neither parameters nor labels of a loss."""
    labels = {node.inputs[1][0] for node in symbol.nodes if node.op in LABELLED and len(node.inputs) > 1}
    used = {
        source
        for node in symbol.nodes
        for position, (source, _) in enumerate(node.inputs)
        if not (node.op in LABELLED and position == 1)
    }
    return [
        node.name
        for number, node in enumerate(symbol.nodes)
        if node.op == VARIABLE and node.name not in parameters and (number in used or number not in labels)
    ]


def input_specs(
    symbol: Symbol, parameters: Mapping[str, Array], names: Sequence[str], interface: Interface
) -> list[TensorSpec]:
    """Return type and shape of each input: the signature's, else the symbol's, else what its first use tells.

    Raises:
        SourceError: Nothing tells the shape of one.
    """
    by_name = {spec.name: spec for spec in interface.inputs}
    if not set(names) <= set(by_name) and len(interface.inputs) == len(names):
        by_name = dict(zip(names, interface.inputs, strict=True))
    nodes = {node.name: node for node in symbol.nodes}
    floats = [array.dtype.name for array in parameters.values() if array.dtype.kind == "f"]
    usual = max(set(floats), key=floats.count) if floats else "float32"
    specs = []
    for name in names:
        given, node = by_name.get(name), nodes[name]
        shape = (given.shape if given else None) or _declared(node) or _guessed(symbol, parameters, name)
        if shape is None:
            raise SourceError(
                f"Nothing tells the shape of the model's input {name}.",
                remedy="Log the model with a signature; among plain files, save the symbol with the shape in it: "
                f"mx.sym.var({name!r}, shape=...).",
            )
        number = node.get("__dtype__", -1)
        declared = _DTYPES[number] if isinstance(number, int) and 0 <= number < len(_DTYPES) else usual
        specs.append(TensorSpec(name, (given.dtype if given else "") or declared, shape))
    return specs


def _declared(node: Node) -> tuple[Dimension, ...] | None:
    """Read the shape that `sym.var(shape=...)` left in the symbol; the batch varies all the same."""
    sizes = node.sizes("__shape__", ())
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return None
    rest = (size if size > 0 else f"{node.name}_{axis}" for axis, size in enumerate(sizes[1:], start=1))
    return ("batch", *rest)


def _guessed(symbol: Symbol, parameters: Mapping[str, Array], name: str) -> tuple[Dimension, ...] | None:
    """Read a shape from the weights of the first layer."""
    number = next(i for i, node in enumerate(symbol.nodes) if node.name == name)
    for node in symbol.nodes:
        if (number, 0) not in node.inputs[:1] or len(node.inputs) < 2:
            continue
        weight = parameters.get(symbol.nodes[node.inputs[1][0]].name)
        if weight is None:
            continue
        if node.op == "Convolution":
            channels = weight.shape[1] * int(node.get("num_group", 1))
            return ("batch", channels, *(f"{name}_{axis}" for axis in range(2, weight.ndim)))
        if node.op == "Embedding":
            return ("batch", f"{name}_1")
        if node.op == "FullyConnected" and node.get("flatten", True):
            return ("batch", int(weight.shape[1]))
    return None


def output_name(node: Node, which: int) -> str:
    """Name an output as MXNet's `list_outputs` does."""
    if node.op == VARIABLE:
        return node.name
    if node.op == "RNN":
        return f"{node.name}_{_RNN_OUTPUTS[which]}"
    several = node.op in ("SliceChannel", "split") and node.get("num_outputs", 1) > 1
    ordered = node.op == "sort" or (node.op == "topk" and node.get("ret_typ") in ("both", "value"))
    if several or ordered or node.op == "_split_v2":
        return f"{node.name}_output{which}"
    return f"{node.name}_output"


def distinct(names: Sequence[str]) -> list[str]:
    """Number the names that occur again."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
