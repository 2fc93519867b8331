"""What inputs and outputs are called and hold inside a package, and how to get back from there.

Core ML's programs take identifiers as names, inputs and outputs together in one set; and of element types
only float32, float16 and int32. The source's own names are kept in the package's metadata, as JSON, under
`NAMES_KEY`: `{"inputs": {"feature": "source's name", ...}, "outputs": {...}}`, both in the source's order, and
under `TYPES_KEY` the source's element types by feature. Scalars are arrays of one element in a package: `SCALARS_KEY`
lists the outputs that are scalars in the source.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from registry_export.entities import Interface, TensorSpec

NAMES_KEY = "registry_export.names"
TYPES_KEY = "registry_export.types"
SCALARS_KEY = "registry_export.scalars"

RESERVED = frozenset(
    (
        *("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"),
        *("bf16", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
"""Words of the Model Intermediate Language, which a name must not be."""


@dataclass(frozen=True)
class Feature:
    """One input or output of a package.

    Attributes:
        name: What the package calls it.
        source: What the source calls it.
        dtype: The element type in the package.
        source_dtype: The source's own.
        scalar: Whether it is one in the source.
    """

    name: str
    source: str
    dtype: str
    source_dtype: str = ""
    scalar: bool = False


def stored_dtype(dtype: str, half: bool) -> str:
    """Return the element type in which a package takes or gives a tensor.

    Args:
        dtype: NumPy's name of the source's element type.
        half: Whether the deployment target knows float16 inputs and outputs (iOS 16 and later).
    """
    if dtype == "float16" and half:
        return "float16"
    return "float32" if dtype.startswith(("float", "bfloat")) else "int32"


def features(specs: Iterable[TensorSpec], half: bool, taken: Iterable[str] = ()) -> tuple[Feature, ...]:
    """Give each tensor a name that Core ML accepts, distinct from each other and from those taken."""
    used = set(taken)
    made = []
    for spec in specs:
        name = _distinct(_identifier(spec.name), used)
        used.add(name)
        made.append(Feature(name, spec.name, stored_dtype(spec.dtype, half), spec.dtype, spec.shape == ()))
    return tuple(made)


def _identifier(name: str) -> str:
    name = re.sub(r"[^0-9A-Za-z_]", "_", name) or "tensor_"
    # A leading underscore or digit would be prefixed by coremltools, differently for inputs and outputs.
    name = name if name[0].isalpha() else f"var_{name}"
    # Python's words too: tracers name a function's arguments after the inputs.
    return f"{name}_" if name in RESERVED or keyword.iskeyword(name) or name == "self" else name


def _distinct(name: str, used: set[str]) -> str:
    unique, count = name, 1
    while unique in used:
        unique, count = f"{name}_{count}", count + 1
    return unique


def to_metadata(inputs: Iterable[Feature], outputs: Iterable[Feature]) -> str:
    """Write the source's names as the metadata value of `NAMES_KEY`."""
    return json.dumps(
        {"inputs": {f.name: f.source for f in inputs}, "outputs": {f.name: f.source for f in outputs}},
        ensure_ascii=False,
    )


def types_metadata(outputs: Iterable[Feature]) -> str:
    """Write the source's element types of outputs as the metadata value of `TYPES_KEY`."""
    return json.dumps({f.name: f.source_dtype for f in outputs if f.source_dtype})


def scalars_metadata(outputs: Iterable[Feature]) -> str:
    """Write which outputs are scalars in the source as the metadata value of `SCALARS_KEY`."""
    return json.dumps([f.name for f in outputs if f.scalar])


def source_scalars(metadata: Mapping[str, str]) -> frozenset[str]:
    """Return the outputs that are scalars in the source, by feature."""
    try:
        return frozenset(map(str, json.loads(metadata.get(SCALARS_KEY, "[]"))))
    except (json.JSONDecodeError, TypeError):
        return frozenset()


def source_types(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the element types that the source gives its outputs, by feature, as far as they are known."""
    try:
        told = json.loads(metadata.get(TYPES_KEY, "{}"))
        return {str(name): np.dtype("float32" if kind == "bfloat16" else kind).name for name, kind in told.items()}
    except (json.JSONDecodeError, TypeError, AttributeError):
        return {}


def source_names(metadata: Mapping[str, str], own: Iterable[str]) -> dict[str, str]:
    """Map a package's features to the source's names, in the source's order.

    Args:
        metadata: What the package's author wrote into it.
        own: The features; those that the metadata does not know keep their names, after the others.
    """
    try:
        told = json.loads(metadata.get(NAMES_KEY, "{}"))
    except json.JSONDecodeError:
        told = {}
    names = {**told.get("inputs", {}), **told.get("outputs", {})}
    position = {name: i for i, name in enumerate(names)}
    return {name: str(names.get(name, name)) for name in sorted(own, key=lambda n: position.get(n, len(position)))}


def from_metadata(metadata: Mapping[str, str], found: Interface) -> Interface:
    """Put the source's names and order back on the inputs and outputs that a package declares."""
    return Interface(_renamed(metadata, found.inputs), _renamed(metadata, found.outputs))


def _renamed(metadata: Mapping[str, str], specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    by_name = {spec.name: spec for spec in specs}
    return tuple(replace(by_name[own], name=name) for own, name in source_names(metadata, by_name).items())
