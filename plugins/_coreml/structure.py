"""Checks a Core ML package without running it.

Core ML itself runs on macOS only. Elsewhere this is what can be known: every part is there, each operation
uses what exists, the weights lie where the program says and have its sizes and types, and the program, its
description and the source's interface agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry_export.entities import Dimension, Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export_plugins._coreml.description import (
    Known,
    constants,
    declared,
    defined,
    feature_dtype,
    function_inputs,
    shown,
    size_ranges,
)
from registry_export_plugins._coreml.names import stored_dtype
from registry_export_plugins._coreml.package import Package, stored_bytes, tensor_type


def check(path: Path, interface: Interface) -> None:
    """Check a package against itself and against the interface that it was made with.

    Args:
        path: The `.mlpackage` folder.
        interface: The source's inputs and outputs; an empty side is not compared.

    Raises:
        VerificationError: A part is missing, damaged, or at odds with another.
    """
    package = Package(path)
    _check_program(package)
    _check_description(package)
    found = declared(package)
    _compare("input", found.inputs, interface.inputs)
    _compare("output", found.outputs, interface.outputs)
    _check_open_sizes(found, interface)


def _check_program(package: Package) -> None:
    _check_block(package, package.block, function_inputs(package))


def _check_block(package: Package, block: Any, known: Known) -> None:
    """Check that every operation uses values that exist before it, and weights that are there."""
    known = {**known, **{given.name: tensor_type(given.type)[::2] for given in block.inputs}}
    for operation in block.operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and binding.name not in known:
                    raise VerificationError(
                        f"The operation {_called(operation)} uses {binding.name}, which is not there."
                    )
        for value in constants(operation):
            _check_value(package, operation, value)
        for inner in operation.blocks:
            _check_block(package, inner, known)
        known = defined([operation], known)
    missing = [name for name in block.outputs if name not in known]
    if missing:
        raise VerificationError(f"Nothing in the program makes its output {missing[0]}.")


def _called(operation: Any) -> str:
    return f"{operation.type} ({operation.outputs[0].name})" if operation.outputs else str(operation.type)


def _check_value(package: Package, operation: Any, value: Any) -> None:
    if value.WhichOneof("value") != "blobFileValue":
        return
    blob = package.blob(value.blobFileValue)
    dtype, bits, shape = tensor_type(value.type)
    expected = stored_bytes(math.prod(size or 0 for size in shape), bits)
    if blob.dtype != dtype or blob.size != expected:
        raise VerificationError(
            f"The weights of {_called(operation)} are {blob.size} bytes of {blob.dtype} in {blob.path.name} "
            f"and {expected} bytes of {dtype} in the program."
        )


def _check_description(package: Package) -> None:
    """Check that what the package tells its users is what its program takes and gives."""
    description = package.spec.description
    given = function_inputs(package)
    made = defined(package.block.operations, given)
    told = [feature.name for feature in description.input]
    if sorted(told) != sorted(given):
        raise VerificationError(f"The package declares the inputs {_list(told)}; its program takes {_list(given)}.")
    told = [feature.name for feature in description.output]
    if sorted(told) != sorted(package.block.outputs):
        raise VerificationError(
            f"The package declares the outputs {_list(told)}; its program makes {_list(package.block.outputs)}."
        )
    for feature in (*description.input, *description.output):
        dtype, shape = made[feature.name]
        array = feature.type.multiArrayType
        if feature_dtype(feature) != dtype:
            raise VerificationError(f"The package declares {feature.name} as {feature_dtype(feature)}; it is {dtype}.")
        if array.shape and not _fits(size_ranges(array), shape):
            raise VerificationError(
                f"The package declares the sizes {shown(size_ranges(array))} of {feature.name}; its program has "
                f"({', '.join('any' if size is None else str(size) for size in shape)})."
            )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _fits(ranges: list[tuple[int, int]], shape: tuple[int | None, ...]) -> bool:
    return len(ranges) == len(shape) and all(
        size is None or low == high == size for (low, high), size in zip(ranges, shape, strict=True)
    )


def _compare(side: str, found: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...]) -> None:
    """Compare one side of the package with the source's interface."""
    if not wanted:
        return
    names = [spec.name for spec in wanted]
    if all(names) and [spec.name for spec in found] != names:
        raise VerificationError(
            f"The package has the {side}s {_list(spec.name for spec in found)} instead of {_list(names)}."
        )
    for own, spec in zip(found, wanted, strict=True):
        if own.dtype not in {stored_dtype(spec.dtype, half) for half in (False, True)}:
            raise VerificationError(
                f"The {side} {own.name} is {own.dtype} in the package and {spec.dtype} in the source."
            )
        if spec.shape is not None and not _agree(own.shape or (), spec.shape or (1,)):
            raise VerificationError(
                f"The {side} {own.name} has the sizes {_sizes(own.shape)} in the package and {_sizes(spec.shape)} "
                "in the source."
            )


def _check_open_sizes(found: Interface, wanted: Interface) -> None:
    """Check that an output follows the inputs' sizes where the source's does: a bad trace fixes them."""
    pairs = [
        (name, size)
        for own, spec in zip(found.inputs, wanted.inputs, strict=False)
        for name, size in zip(spec.shape or (), own.shape or (), strict=False)
    ]
    vary = {name for name, size in pairs if isinstance(name, str) and isinstance(size, str)}
    for own, spec in zip(found.outputs, wanted.outputs, strict=False):
        for name, size in zip(spec.shape or (), own.shape or (), strict=False):
            if name in vary and isinstance(size, int):
                raise VerificationError(f"The output {own.name} has {name} fixed to {size}, and the inputs do not.")


def _agree(own: tuple[Dimension, ...], wanted: tuple[Dimension, ...]) -> bool:
    return len(own) == len(wanted) and all(
        mine == theirs
        for mine, theirs in zip(own, wanted, strict=True)
        if isinstance(mine, int) and isinstance(theirs, int)
    )


def _sizes(shape: Iterable[Dimension] | None) -> str:
    return f"({', '.join(str(size) for size in shape or ())})"
