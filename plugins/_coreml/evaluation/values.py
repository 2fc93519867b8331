"""What a program's messages mean in Python: element types, constants, and the types of results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from registry_export.errors import VerificationError
from registry_export_plugins._coreml.evaluation.registry import Tensor, unknown
from registry_export_plugins._coreml.package import DATA_TYPES, Package

_WHOLE_BYTES = ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64")
STORED = {
    **{name: np.dtype(name) for name in _WHOLE_BYTES},
    **{f"uint{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "int4": np.dtype("int8"),
    **{f"uint{bits}": np.dtype("uint8") for bits in (1, 2, 3, 4, 6)},
}
"""The NumPy type that holds each element type; narrower integers take a byte."""


@dataclass(frozen=True)
class Kind:
    """What a value of a program is.

    Attributes:
        dtype: Element type of a tensor, or of a list's tensors; None where it holds no numbers.
        shape: Of a tensor, None for a size that the program leaves open; None altogether for another value.
    """

    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None


def kind_of(value_type: Any) -> Kind:
    """Read a `ValueType`.

    Raises:
        RuntimeAbsentError: The evaluator has no numbers of this element type.
    """
    which = value_type.WhichOneof("type")
    if which == "stateType":
        return kind_of(value_type.stateType.wrappedType)
    if which == "listType":
        return Kind(kind_of(value_type.listType.type).dtype, None)
    if which != "tensorType":
        return Kind(None, None)
    tensor = value_type.tensorType
    name = DATA_TYPES.get(tensor.dataType, ("unknown", 0))[0]
    if name == "string":
        return Kind(None, None)
    if name not in STORED:
        raise unknown(f"that gives tensors of {name}")
    return Kind(STORED[name], _sizes(tensor))


def _sizes(tensor: Any) -> tuple[int | None, ...] | None:
    which = [dimension.WhichOneof("dimension") for dimension in tensor.dimensions]
    if any(w == "unknown" and d.unknown.variadic for w, d in zip(which, tensor.dimensions, strict=True)):
        return None
    return tuple(d.constant.size if w == "constant" else None for w, d in zip(which, tensor.dimensions, strict=True))


def constant(package: Package, value: Any) -> Any:
    """Read a `Value`: an array, a text, or a tuple of such.

    Raises:
        VerificationError: It is damaged.
    """
    if value.WhichOneof("value") == "immediateValue":
        held = value.immediateValue.WhichOneof("value")
        if held in ("tuple", "list"):
            return tuple(constant(package, item) for item in getattr(value.immediateValue, held).values)
        if held == "dictionary":
            raise unknown("that takes a dictionary")
    try:
        array = package.array(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise VerificationError(f"A constant of the program is damaged: {error}") from error
    if array.dtype == object:
        texts = [
            text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in array.reshape(-1)
        ]
        return texts[0] if array.ndim == 0 and texts else tuple(texts)
    return array


def stored(value: Any, kind: Kind) -> Any:
    """Round a result to the element type that the program stores it in.

    Raises:
        VerificationError: Its sizes are not those that the program tells.
    """
    if kind.dtype is None or not isinstance(value, np.ndarray | np.generic):
        return value
    array: Tensor = np.asarray(value).astype(kind.dtype, copy=False)
    if kind.shape is not None and not _fits(array.shape, kind.shape):
        told = ", ".join("any" if size is None else str(size) for size in kind.shape)
        raise VerificationError(f"it gives the sizes {array.shape} where the program tells ({told})")
    return array


def _fits(found: tuple[int, ...], told: tuple[int | None, ...]) -> bool:
    return len(found) == len(told) and all(b is None or a == b for a, b in zip(found, told, strict=True))
