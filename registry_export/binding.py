"""A caller's data as a model's inputs: by name, in order, with the declared dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry_export.entities import TensorSpec
from registry_export.errors import VerificationError

Array = NDArray[np.generic]

_MAPPING = "Give a mapping from each input's name to an array."
_BUILT_IN = 1
"""`numpy.dtype.isbuiltin` of the types that NumPy itself has."""


def exact_inputs(data: Any, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Check arrays by name against what a model declares; nothing is cast that has a dtype of its own to keep.

    Lists (whatever they hold) and Python's numbers have no dtype and take the declared one; NumPy's numbers have one
    as arrays do. Integers in another width are taken where all of their values fit.

    Args:
        data: An array, or nested lists, by input name.
        inputs: What the model declares, in order.

    Returns:
        The arrays in the model's order.

    Raises:
        VerificationError: A name, a dtype or a shape is another one; says which, and what is expected.
    """
    if not isinstance(data, Mapping):
        takes = ", ".join(spec.name for spec in inputs)
        raise VerificationError(f"The model takes {takes}; it was given one {type(data).__name__}.", remedy=_MAPPING)
    named = _checked_names({str(name): value for name, value in data.items()}, inputs)
    arrays = {spec.name: _exact(named[spec.name], spec) for spec in inputs}
    check_shapes(arrays, inputs)
    return arrays


def check_shapes(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> None:
    """Check that arrays have the declared ranks and fixed sizes.

    Raises:
        VerificationError: One has not; names it, with both shapes.
    """
    for spec in inputs:
        _check_shape(arrays[spec.name], spec)


def bind_inputs(data: Any, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Turn whatever MLflow hands over into arrays by input name, with the declared dtypes.

    Numbers are cast only where nothing of their value is lost, or from one floating-point type to another: what came
    as JSON or in a DataFrame has no other dtype than that of the parser.

    Args:
        data: An array or nested lists for a model with one input; a mapping of them by input name; a
            DataFrame whose columns are the inputs, or are the columns of the only input.
        inputs: What the model declares, in order.

    Raises:
        VerificationError: A name or a count does not fit, or a cast would lose values.
    """
    named = _checked_names(_named(data, inputs), inputs)
    return {spec.name: _cast(named[spec.name], spec) for spec in inputs}


def _checked_names(named: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    if set(named) != {spec.name for spec in inputs}:
        raise VerificationError(
            f"The model takes {', '.join(spec.name for spec in inputs)}; "
            f"it was given {', '.join(map(str, named)) or 'nothing'}.",
            remedy=_MAPPING,
        )
    return named


def _named(data: Any, inputs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    names = [spec.name for spec in inputs]
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        if set(map(str, data.columns)) == set(names):
            return {str(column): _column(data[column]) for column in data.columns}
        if len(names) == 1:
            return {names[0]: data.to_numpy()}
        return {str(column): _column(data[column]) for column in data.columns}
    if isinstance(data, Mapping):
        # Of a single input people seldom know the name that a converter gave it.
        if len(names) == 1 and len(data) == 1 and names[0] not in data:
            return {names[0]: next(iter(data.values()))}
        return {str(name): value for name, value in data.items()}
    if len(names) == 1:
        return {names[0]: data}
    if isinstance(data, tuple) and len(data) == len(names):
        return dict(zip(names, data, strict=True))
    raise VerificationError(
        f"The model takes {len(names)} inputs ({', '.join(names)}), and was given one {type(data).__name__}.",
        remedy=_MAPPING,
    )


def _column(column: Any) -> Any:
    """A column of numbers as an array; a column of lists as one array of all of them."""
    values = column.to_numpy()
    return np.asarray(list(values)) if values.dtype == object else values


def _exact(value: Any, spec: TensorSpec) -> Array:
    if isinstance(value, (list, tuple, int, float)) and not isinstance(value, np.generic):  # np.float64 is a float
        return _cast(value, spec)
    array = np.asarray(value)
    wanted = _numpy_type(spec)
    if wanted is None or array.dtype.name == spec.dtype:
        return array
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        return _cast(array, spec)
    raise VerificationError(
        f"Input {spec.name} takes {spec.dtype}, and was given {array.dtype}.",
        remedy=f"Cast it, where that is what you mean: array.astype({spec.dtype!r}).",
    )


def _cast(value: Any, spec: TensorSpec) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise VerificationError(f"Input {spec.name} is ragged: {error}.") from error
    wanted = _numpy_type(spec)
    if wanted is None or array.dtype.name == spec.dtype:
        return array
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise VerificationError(f"Input {spec.name} takes {spec.dtype}, and was given {array.dtype}.")
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(wanted)
    both_float = array.dtype.kind == "f" and wanted.kind == "f"
    if not both_float and not np.array_equal(result.astype(array.dtype), array):
        raise VerificationError(f"Input {spec.name} takes {spec.dtype}; {array.dtype} values would be changed by that.")
    return result


def _numpy_type(spec: TensorSpec) -> np.dtype[Any] | None:
    """The declared type where it is NumPy's own; of bfloat16 and the like the runner makes floats by itself."""
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        return None
    return wanted if wanted.isbuiltin == _BUILT_IN else None


def _check_shape(array: Array, spec: TensorSpec) -> None:
    if spec.shape is None:
        return
    fixed = [(axis, size) for axis, size in enumerate(spec.shape) if isinstance(size, int)]
    if array.ndim == len(spec.shape) and all(array.shape[axis] == size for axis, size in fixed):
        return
    raise VerificationError(
        f"Input {spec.name} takes the shape {_shape_text(spec.shape)}, and was given {_shape_text(array.shape)}."
    )


def _shape_text(shape: Sequence[int | str]) -> str:
    """Write a shape as NumPy does, with the names of dynamic dimensions in their places."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
