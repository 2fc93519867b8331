"""The names, order and open sizes of an OpenVINO model's inputs and outputs.

Ports keep their positions in a saved model; their names do not have to be unique (two outputs may be
one tensor), so everything here goes by position, and names are what a reader of the file is told.

Source: https://docs.openvino.ai/2025/openvino-workflow/running-inference/model-input-output.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import ConversionError

_DTYPES = {"bf16": "bfloat16", "boolean": "bool"}
_FAMILIES = {"f": "float", "i": "int", "u": "uint"}
_SINK = "/sink_port_0"
"""What OpenVINO appends to the name of an output's node."""


def give_names(model: Any, interface: Interface) -> Any:
    """Return the model with the interface's inputs and outputs, by its names and in its order.

    Args:
        model: An `openvino.Model` whose inputs and outputs are those of the interface, in any order if
            their names are the same, else in the same order.
        interface: Names and order to give; sizes it fixes are fixed, sizes it names are opened.

    Raises:
        ConversionError: The model has other inputs or outputs.
    """
    import openvino

    inputs = _paired(model.inputs, interface.inputs, "inputs")
    outputs = _paired(model.outputs, interface.outputs, "outputs") if interface.outputs else list(model.outputs)
    parameters = [port.get_node() for port in inputs]
    results = [port.get_node() for port in outputs]
    named = openvino.Model(results, model.get_sinks(), parameters, model.get_friendly_name())
    for parameter, spec in zip(parameters, interface.inputs, strict=True):
        parameter.set_friendly_name(spec.name)
        parameter.output(0).get_tensor().set_names({spec.name})
    shared: dict[Any, set[str]] = {}
    for result, spec in zip(results, interface.outputs, strict=False):
        result.set_friendly_name(spec.name + _SINK)
        value = result.input_value(0)
        key = (value.get_node().get_friendly_name(), value.get_index())
        shared.setdefault(key, set()).add(spec.name)
        if value.get_node().get_type_name() == "Parameter":
            shared[key].add(value.get_node().get_friendly_name())
        value.get_tensor().set_names(shared[key])
    named.validate_nodes_and_infer_types()
    return named


def _paired(ports: Sequence[Any], specs: Sequence[TensorSpec], what: str) -> list[Any]:
    """Return the ports in the order of the specs: by name where the names are the same, else by position."""
    if len(ports) != len(specs):
        own = ", ".join(port_name(port) for port in ports) or "none"
        wanted = ", ".join(spec.name for spec in specs)
        raise ConversionError(f"OpenVINO's model has the {what} {own}, the source has {wanted}.")
    by_name = {name: port for port in ports for name in port.get_names()}
    names = [spec.name for spec in specs]
    if all(name in by_name for name in names) and len({id(by_name[name]) for name in names}) == len(names):
        return [by_name[name] for name in names]
    return list(ports)


def port_name(port: Any) -> str:
    """Return the name of an input or output: its node's, where the tensor goes by that name too."""
    names = port.get_names()
    own = str(port.get_node().get_friendly_name()).removesuffix(_SINK)
    return own if own in names or not names else min(names)


def interface_of(model: Any) -> Interface:
    """Read inputs and outputs; an open size is called after its tensor, the first axis `batch`."""
    return Interface(tuple(map(_spec, model.inputs)), tuple(map(_spec, model.outputs)))


def _spec(port: Any) -> TensorSpec:
    name = port_name(port)
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(name, dtype_name(port), None)
    return TensorSpec(name, dtype_name(port), tuple(_size(size, name, axis) for axis, size in enumerate(shape)))


def _size(size: Any, name: str, axis: int) -> Dimension:
    if size.is_static:
        return int(size.get_length())
    return "batch" if axis == 0 else f"{name}_{axis}"


def dtype_name(port: Any) -> str:
    """Return NumPy's name of a port's element type."""
    name = str(port.get_element_type().get_type_name())
    return _DTYPES.get(name) or _FAMILIES.get(name[0], name[0]) + name[1:]
