"""Engines read back: by TensorRT where there is a GPU, else from their file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export_plugins._tensorrt import cuda
from registry_export_plugins._tensorrt.flavour import MODULE, PRODUCTS, log, tensorrt
from registry_export_plugins._tensorrt.plan import (
    AMPERE_AND_NEWER,
    Binding,
    Plan,
    named_size,
    read_plan,
    runs_by_default,
)

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "float8_e4m3fn",
}
_PRECISION = re.compile(r"precision=(\w+)")


def label(precision: str) -> str:
    """Name a network so that its engine tells its precision: strongly typed, it is the engine's."""
    return f"precision={precision}"


def read(path: Path) -> Plan:
    """Read an engine's header and, where its layout is known, its inputs and outputs.

    Raises:
        VerificationError: The file is no engine.
    """
    plan = read_plan(path)
    if plan is None and MODULE == "tensorrt":
        return Plan("tensorrt", "", (), "", ())  # TensorRT itself will say whether it is one
    if plan is None:
        raise VerificationError(f"{path.name} is no TensorRT engine.")
    return plan


def unfit(plan: Plan) -> str:
    """Say why this machine cannot run an engine; empty when it can."""
    return _unfit(PRODUCTS[plan.flavour], plan.devices)


def unfit_description(description: Description) -> str:
    """Say the same of an engine of which there is only what `describe` has told of it."""
    devices = description.details.get("devices", "")
    known = AMPERE_AND_NEWER if devices in AMPERE_AND_NEWER else tuple(filter(None, devices.split(", ")))
    product = description.details.get("builder", "").partition(" ")[0]
    return _unfit(product or PRODUCTS[MODULE], known)


def _unfit(product: str, devices: tuple[str, ...]) -> str:
    needed = f"no GPU of compute capability {' or '.join(devices)}" if devices else "no GPU of the kind it was built on"
    absent = cuda.problem()
    if absent:
        return f"{needed}: {absent}"
    if product != PRODUCTS[MODULE]:
        return f"The engine is one of {product}, and {PRODUCTS[MODULE]} is installed here."
    here = cuda.compute_capability()
    fits = runs_by_default(here) if devices == AMPERE_AND_NEWER else not devices or here in devices
    return "" if fits else f"{needed}: the GPU here is {here}."


def deserialize(path: Path) -> Any:
    """Load an engine onto the GPU.

    Raises:
        VerificationError: TensorRT refuses it.
    """
    trt, messages = tensorrt(), log()
    messages.clear()
    runtime = trt.Runtime(messages)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise VerificationError(f"{PRODUCTS[MODULE]} cannot load the engine: {messages.said()}")
    return engine


def bindings_of(engine: Any) -> tuple[Binding, ...]:
    """Ask a loaded engine for its inputs and outputs."""
    trt = tensorrt()
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        element = engine.get_tensor_dtype(name).name
        shape = tuple(named_size(size, name, axis) for axis, size in enumerate(engine.get_tensor_shape(name)))
        output = engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        found.append(Binding(name, output, DTYPES.get(element, element.lower()), shape))
    return tuple(sorted(found, key=lambda binding: binding.output))


def describe(path: Path) -> Description:
    """Read an engine's inputs, outputs, precision, devices and the version that built it."""
    plan = read(path)
    bindings, named, version, by = plan.bindings, plan.label, plan.version, "the file, without a GPU"
    if not unfit(plan):
        engine = deserialize(path)
        # Without a header that tells, the version that loads an engine is the one that built it.
        version = version or str(tensorrt().__version__)
        bindings, named, by = bindings_of(engine), str(engine.name), "TensorRT"
    told = _PRECISION.search(named)
    details = {"builder": f"{PRODUCTS[plan.flavour]} {version}".strip(), "read by": by}
    if plan.devices:
        details["devices"] = ", ".join(plan.devices)
    return Description(
        interface=interface_of(bindings),
        format_version=version or None,
        precision=told.group(1) if told else "fp32",
        details=details,
    )


def interface_of(bindings: tuple[Binding, ...]) -> Interface:
    """Return bindings as an interface; empty where they could not be read."""
    inputs = tuple(TensorSpec(b.name, b.dtype, b.shape) for b in bindings if not b.output)
    return Interface(inputs, tuple(TensorSpec(b.name, b.dtype, b.shape) for b in bindings if b.output))


def check_bindings(own: Interface, wanted: Interface) -> None:
    """Compare an engine's inputs and outputs with those it should have: names, order, types, fixed sizes.

    Raises:
        VerificationError: They differ; says where.
    """
    for what, mine, theirs in (("inputs", own.inputs, wanted.inputs), ("outputs", own.outputs, wanted.outputs)):
        names, expected = [s.name for s in mine], [s.name for s in theirs]
        if names != expected and theirs:
            raise VerificationError(f"The engine's {what} are {', '.join(names)}, the model's {', '.join(expected)}.")
        for one, other in zip(mine, theirs, strict=False):
            if other.dtype and one.dtype != other.dtype:
                raise VerificationError(f"{one.name} is {one.dtype} in the engine and {other.dtype} in the model.")
            if not _agree(one, other):
                raise VerificationError(
                    f"{one.name} has the shape {one.shape} in the engine and {other.shape} in the model."
                )


def _agree(one: TensorSpec, other: TensorSpec) -> bool:
    if one.shape is None or other.shape is None:
        return True
    pairs = zip(one.shape, other.shape, strict=False)
    fixed = all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    return len(one.shape) == len(other.shape) and fixed
