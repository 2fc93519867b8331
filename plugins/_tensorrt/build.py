"""Parsing an ONNX file into a strongly typed network, and building it.

TensorRT 10 builds such networks on request, TensorRT 11 and TensorRT-RTX build no others: what a module
does not have is not asked of it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_export.entities import TensorSpec
from registry_export.errors import ConversionError, UnsupportedModelError
from registry_export.format import ConversionRequest
from registry_export_plugins._tensorrt.devices import set_devices
from registry_export_plugins._tensorrt.engine import DTYPES, label
from registry_export_plugins._tensorrt.flavour import log, product, tensorrt
from registry_export_plugins._tensorrt.profiles import add_profile

_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
_ARITHMETIC = (
    "CONVOLUTION",
    "DECONVOLUTION",
    "MATRIX_MULTIPLY",
    "EINSUM",
    "ATTENTION_OUTPUT",
    "NORMALIZATION",
    "SCALE",
)
_TURING = re.compile(r"Cannot compile operation '([^']*)' for Turing \(SM75\): (.*?) is not supported")


class BuildRefusedError(ConversionError):
    """A network was parsed, but no engine came of it; with other sizes one may."""


@dataclass(frozen=True)
class Built:
    """An engine's bytes, and what a reader of the report should know of it."""

    engine: bytes
    notes: tuple[str, ...]


def build(path: Path, request: ConversionRequest, devices: tuple[str, ...], smallest_is_sample: bool) -> Built:
    """Build an engine.

    Args:
        path: The ONNX file.
        request: Has the interface to keep and the samples to tune for.
        devices: What to build for; empty: what the builder chooses.
        smallest_is_sample: As `profiles.add_profile` takes it.

    Raises:
        UnsupportedModelError: TensorRT has no form of an operator or an element type; names it.
        BuildRefusedError: The builder refused the network.
        ConversionError: The file cannot be parsed, or there is no builder here.
    """
    builder = _builder()
    network = builder.create_network(_flags())
    _parse(network, path)
    _let_attention_decompose(network)
    _give_names(network, request)
    network.name = label(precision_of(network))
    config = builder.create_builder_config()
    ranges = add_profile(builder, network, config, request.samples, smallest_is_sample)
    set_devices(config, devices)
    # By default float32 products are rounded to 10 bits (TF32); fp32 means fp32, and fp16 is there for speed.
    if hasattr(tensorrt().BuilderFlag, "TF32"):
        config.clear_flag(tensorrt().BuilderFlag.TF32)
    log().clear()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _refusal(log().said())
    return Built(bytes(engine), (f"The engine takes {', '.join(ranges)}.",) if ranges else ())


def _builder() -> Any:
    messages = log()
    messages.clear()
    try:
        return tensorrt().Builder(messages)
    except (TypeError, RuntimeError) as error:
        raise ConversionError(
            f"{product()} cannot build here: {messages.said()}",
            remedy="TensorRT needs a GPU to build; tensorrt-rtx, used where tensorrt is not installed, needs none.",
        ) from error


def _flags() -> int:
    flags = tensorrt().NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _parse(network: Any, path: Path) -> None:
    messages = log()
    parser = tensorrt().OnnxParser(network, messages)
    if parser.parse_from_file(str(path)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    unsupported = [error for error in errors if "UNSUPPORTED" in str(error.code()) and error.node_operator()]
    if unsupported:
        listed = dict.fromkeys(
            f"{e.node_operator()}{f' ({e.node_name()})' if e.node_name() else ''}" for e in unsupported
        )
        raise UnsupportedModelError(
            f"{product()} has no form of these operators: {', '.join(listed)}.",
            remedy="Replace them in the model, or export the model to onnx.",
        )
    told = "; ".join(" ".join(error.desc().split()) for error in errors) or messages.said()
    if "zero point" in told:
        raise UnsupportedModelError(
            "TensorRT takes symmetric quantisation only, and the model has zero points other than 0.",
            remedy="Export the float model with precision int8, which quantises it as TensorRT takes it.",
        )
    raise ConversionError(f"{product()} cannot parse the ONNX file: {told[:500]}")


def _let_attention_decompose(network: Any) -> None:
    """Allow opset 23's `Attention` to be computed by its parts where there is no fused kernel; refused otherwise."""
    trt = tensorrt()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # the binding returns the base class
            layer.attention.decomposable = True


def _give_names(network: Any, request: ConversionRequest) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _name(inputs, request.interface.inputs, "inputs")
    if request.interface.outputs:
        _name(outputs, request.interface.outputs, "outputs")


def _name(tensors: list[Any], specs: tuple[TensorSpec, ...], what: str) -> None:
    """Check names and types; other names give way to the interface's, position by position."""
    names = [tensor.name for tensor in tensors]
    if len(names) != len(specs):
        wanted = ", ".join(spec.name for spec in specs)
        raise ConversionError(f"The network has the {what} {', '.join(names) or 'none'}, the model has {wanted}.")
    by_name = {spec.name: spec for spec in specs}
    same = set(names) == set(by_name)
    for tensor, at_position in zip(tensors, specs, strict=True):
        spec = by_name[tensor.name] if same else at_position
        own = DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower())
        if spec.dtype and own != spec.dtype:
            raise UnsupportedModelError(
                f"TensorRT has no {spec.dtype}, which {spec.name} is: it would become {own}.",
                remedy=f"Let the model take and return {own} there, and log it again.",
            )
    if not same:
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.name = spec.name


def precision_of(network: Any) -> str:
    """Name a strongly typed network's precision: `int8` where it quantises, else what most arithmetic is done in."""
    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        if kind in ("QUANTIZE", "DYNAMIC_QUANTIZE"):
            return "int8"
        output = layer.get_output(0)
        precision = _PRECISIONS.get(output.dtype.name) if output is not None else None
        if precision and kind != "CAST":
            (kinds if kind in _ARITHMETIC else others)[precision] += 1
    counted = kinds or others
    return counted.most_common(1)[0][0] if counted else "fp32"


def _refusal(message: str) -> ConversionError:
    turing = _TURING.search(message)
    if turing:
        return UnsupportedModelError(
            f"sm75 (Turing) cannot compute {turing.group(1)}: {turing.group(2)} is not supported there.",
            remedy="Ask for precision fp16, or leave sm75 out of device.",
        )
    return BuildRefusedError(f"{product()} built no engine: {message}")
