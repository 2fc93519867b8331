"""Tells what a Core ML package declares: its interface, its specification version, its precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Dimension, Interface, TensorSpec
from registry_export_plugins._coreml.names import from_metadata
from registry_export_plugins._coreml.package import Package, tensor_type

FEATURE_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131080: "int8", 131104: "int32"}
"""`ArrayFeatureType.ArrayDataType` of FeatureTypes.proto."""

Known = dict[str, tuple[str, tuple[int | None, ...]]]
"""Element type and sizes of each value, by name."""


def describe(path: Path) -> Description:
    """Read a package's interface, specification version, precision and operations.

    Raises:
        VerificationError: It cannot be read.
    """
    package = Package(path)
    version = package.spec.specificationVersion
    counts = Counter(operation.type for operation in package.operations() if operation.type != "const")
    details = {"operators": ", ".join(sorted(counts))}
    bounds = _bounds(package)
    if bounds:
        details["bounds"] = bounds
    precision, bits = precision_of(package)
    if bits:
        details["palette"] = f"{bits} bits"
    return Description(declared(package), format_version=str(version), precision=precision, details=details)


def declared(package: Package) -> Interface:
    """Read inputs and outputs from the description, with the source's names and order.

    A size that may vary stands as a name: `batch` on the first axis, `<input>_<axis>` on others. Outputs
    take their sizes from the program.
    """
    description = package.spec.description
    inputs = tuple(
        TensorSpec(f.name, feature_dtype(f), _dimensions(f.name, size_ranges(f.type.multiArrayType)))
        for f in description.input
    )
    sizes = {name: shape for name, (_, shape) in defined(package.block.operations, function_inputs(package)).items()}
    outputs = tuple(
        TensorSpec(f.name, feature_dtype(f), _dimensions(f.name, [(n or 0, n or 0) for n in sizes.get(f.name, ())]))
        for f in description.output
    )
    return from_metadata(package.metadata, Interface(inputs, outputs))


def precision_of(package: Package) -> tuple[str, int]:
    """Name the precision in which most elements of the weights are stored.

    Returns:
        `fp32`, `fp16` or `int8` (indices into a palette are integers too), and the bits of such an
        index, 0 without a palette.
    """
    counts: Counter[str] = Counter()
    for value in _weights(package):
        dtype, bits, shape = tensor_type(value.type)
        kind = "int8" if bits <= 8 else {"float32": "fp32", "float16": "fp16", "bfloat16": "fp16"}.get(dtype)
        if kind:  # wider integers are positions and sizes
            counts[kind] += math.prod(size or 1 for size in shape)
    return (counts.most_common(1)[0][0] if counts else _arithmetic(package)), _palette_bits(package)


def _palette_bits(package: Package) -> int:
    """Return the bits of an index into the palette, from the palette's length; 0 without one."""
    shapes = {out.name: tensor_type(out.type)[2] for op in package.operations() for out in op.outputs}
    for operation in package.operations():
        if operation.type != "constexpr_lut_to_dense":
            continue
        if "lut" in operation.attributes:  # iOS 16 and 17: [2 ** bits]
            return int(math.log2(tensor_type(operation.attributes["lut"].type)[2][0] or 1))
        binding = operation.inputs["lut"].arguments[0]  # iOS 18: [..., 2 ** bits, elements of an entry]
        named = binding.WhichOneof("binding") == "name"
        shape = shapes[binding.name] if named else tensor_type(binding.value.type)[2]
        return int(math.log2(shape[-2] or 1))
    return 0


def _arithmetic(package: Package) -> str:
    """The precision of a program that has no weights: that of most values in it."""
    counts = Counter(tensor_type(output.type)[0] for op in package.operations() for output in op.outputs)
    return "fp16" if counts["float16"] > counts["float32"] else "fp32"


def _weights(package: Package) -> Iterable[Any]:
    """Yield the constants that are weights: those in the weight file, and the floating ones of some size."""
    for operation in package.operations():
        for value in constants(operation):
            dtype, _, shape = tensor_type(value.type)
            in_file = value.WhichOneof("value") == "blobFileValue"
            if (in_file and dtype != "bool") or ("float" in dtype and math.prod(size or 1 for size in shape) > 1):
                yield value


def _bounds(package: Package) -> str:
    """Tell the sizes of the inputs that vary."""
    ranges = {f.name: size_ranges(f.type.multiArrayType) for f in package.spec.description.input}
    return ", ".join(f"{n} {shown(r)}" for n, r in ranges.items() if any(low != high for low, high in r))


def constants(operation: Any) -> Iterable[Any]:
    """Yield the constants that an operation holds in its attributes and arguments."""
    for name, value in operation.attributes.items():
        if name != "name":
            yield value
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value


def function_inputs(package: Package) -> Known:
    """Return the values that the program is given."""
    return {given.name: tensor_type(given.type)[::2] for given in package.function.inputs}


def defined(operations: Iterable[Any], known: Known) -> Known:
    """Return the values known after some operations; those inside nested blocks stay there."""
    made = dict(known)
    for operation in operations:
        made.update({output.name: tensor_type(output.type)[::2] for output in operation.outputs})
    return made


def feature_dtype(feature: Any) -> str:
    """Return the element type of an input or output (`FeatureDescription`)."""
    return FEATURE_TYPES.get(feature.type.multiArrayType.dataType, "unknown")


def size_ranges(array: Any) -> list[tuple[int, int]]:
    """Return the smallest and the largest size of each axis of an `ArrayFeatureType`."""
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "shapeRange":
        return [(int(r.lowerBound), int(r.upperBound)) for r in array.shapeRange.sizeRanges]
    if flexible == "enumeratedShapes":
        shapes = [list(shape.shape) for shape in array.enumeratedShapes.shapes]
        return [(int(min(sizes)), int(max(sizes))) for sizes in zip(*shapes, strict=True)]
    return [(int(size), int(size)) for size in array.shape]


def _dimensions(name: str, ranges: Iterable[tuple[int, int]]) -> tuple[Dimension, ...]:
    return tuple(
        low if low == high and low > 0 else "batch" if axis == 0 else f"{name}_{axis}"
        for axis, (low, high) in enumerate(ranges)
    )


def shown(ranges: Iterable[tuple[int, int]]) -> str:
    """Write ranges of sizes for people: `(1..1024, 8)`."""
    return f"({', '.join(str(low) if low == high else f'{low}..{high}' for low, high in ranges)})"
