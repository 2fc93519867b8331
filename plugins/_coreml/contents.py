"""What a Core ML package holds: the constants of its program, its operations, its author's words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from registry_export.format import Held, Inside
from registry_export_plugins._coreml.package import Package, stored_bytes, tensor_type

_PREFIX = "com.github.apple.coremltools."
"""Before the keys under which coremltools notes its version and the source's."""


def inside(path: Path) -> Inside:
    """Read the constants and operations of a package's program.

    Raises:
        VerificationError: It cannot be read.
    """
    package = Package(path)
    counts = Counter(operation.type for operation in package.operations() if operation.type != "const")
    return Inside(_tensors(package), counts, _metadata(package))


def _tensors(package: Package) -> Iterator[Held]:
    for operation in package.operations():
        if operation.type == "const":
            yield from _of_constant(package, operation)
        else:
            yield from _arguments(package, operation)


def _of_constant(package: Package, operation: Any) -> Iterator[Held]:
    value = operation.attributes.get("val") if "val" in operation.attributes else None
    if value is not None and operation.outputs:
        yield from _held(package, str(operation.outputs[0].name), value)


def _arguments(package: Package, operation: Any) -> Iterator[Held]:
    """Yield what an operation holds itself: parts of a compressed weight, and constants given in place."""
    name = str(operation.outputs[0].name) if operation.outputs else str(operation.type)
    for key, value in operation.attributes.items():
        if key != "name":
            yield from _held(package, f"{name}/{key}", value)
    for key, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield from _held(package, f"{name}/{key}", binding.value)


def _held(package: Package, name: str, value: Any) -> Iterator[Held]:
    """Yield weights: what lies in the weight file, and floats; not the axes and sizes of operations."""
    dtype, bits, sizes = tensor_type(value.type)
    shape = tuple(size or 0 for size in sizes)
    in_file = value.WhichOneof("value") == "blobFileValue"
    if not in_file and ("float" not in dtype or not shape):
        return
    yield Held(name, partial(package.array, value), shape, dtype, stored_bytes(math.prod(shape), bits))


def _metadata(package: Package) -> Mapping[str, str]:
    told = package.spec.description.metadata
    own = {"author": told.author, "license": told.license, "description": told.shortDescription}
    own |= {"version": told.versionString, "program opset": package.function.opset}
    noted = {key.removeprefix(_PREFIX): text for key, text in told.userDefined.items()}
    return {key: text for key, text in {**own, **noted}.items() if text}
