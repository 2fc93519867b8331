"""The inputs that a model is run on: bound to its names, or drawn where there are none.

Everything here is NumPy and runs next to the model, inside the child, because only the loaded model
knows its own names and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from registry_export.entities import Dimension, TensorSpec
from registry_export.errors import SamplesError

Array = NDArray[np.generic]

_DRAWN_BATCH = 2
_DRAWN_SIZE = 8

WHAT_TO_LOG = (
    "Log the model again with `input_example=` (a batch of 2 or more rows), or with a `signature=`, "
    "or give the rule `samples: {path: ...}`."
)
_NUMBERS_ONLY = "only inputs of numbers and booleans can be exported and verified."
_OUT_OF_THE_MODEL = "Take what turns it into numbers out of the model, and log the model again."


def bind(sample: Sequence[tuple[str, Array]], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Give a sample's arrays the model's own names, order and dtypes.

    Names decide where the model knows all of them; otherwise position does, for as many arrays as the
    model has inputs.

    Args:
        sample: Arrays with the names under which they were logged; a name may be empty.
        inputs: The model's inputs.

    Raises:
        SamplesError: Names and counts do not fit, or an array holds text.
    """
    given = dict(sample)
    names = [spec.name for spec in inputs]
    if len(given) == len(sample) and set(names) == set(given):
        ordered = [given[name] for name in names]
    elif len(sample) == len(inputs):
        ordered = [array for _, array in sample]
    else:
        raise SamplesError(
            f"The samples have {len(sample)} arrays ({', '.join(n or 'unnamed' for n, _ in sample)}), "
            f"the model has {len(inputs)} inputs ({', '.join(names)}).",
            remedy="Let the input example, or the rule's samples, name the model's inputs.",
        )
    return {spec.name: _cast(array, spec) for spec, array in zip(inputs, ordered, strict=True)}


def _cast(array: Array, spec: TensorSpec) -> Array:
    array = np.ascontiguousarray(array) if array.ndim else np.asarray(array)
    if array.dtype.kind in "OSU":
        raise SamplesError(f"The sample of input {spec.name} holds text; {_NUMBERS_ONLY}", remedy=_OUT_OF_THE_MODEL)
    if not spec.dtype or array.dtype.name == spec.dtype:
        return array
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        return array
    if wanted.kind in "iub" and array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise SamplesError(f"Input {spec.name} takes {spec.dtype}, but its sample holds fractions.")
    return array.astype(wanted)


def in_single_precision(sample: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Make floats of doubles whose input declares no dtype: NumPy writes doubles where nobody asked for them."""
    undeclared = {spec.name for spec in inputs if not spec.dtype}
    return {
        name: array.astype(np.float32) if name in undeclared and array.dtype == np.float64 else array
        for name, array in sample.items()
    }


def first_rows(sample: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, Array] | None:
    """Take as many rows as all inputs fix their first axis at; None where they do not, or there are no more."""
    fixed = {spec.shape[0] if spec.shape else None for spec in inputs}
    given = {array.shape[0] if array.ndim else 0 for array in sample.values()}
    size, rows = (fixed.pop(), given.pop()) if len(fixed) == len(given) == 1 else (None, 0)
    return {name: array[:size] for name, array in sample.items()} if isinstance(size, int) and 0 < size < rows else None


def draw(inputs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Array]:
    """Draw random inputs from a signature: standard normal floats, integers and booleans of 0 and 1.

    Integers stay at 0 and 1 because only these are valid in every vocabulary, mask and index.

    Raises:
        SamplesError: A shape or a dtype is unknown.
    """
    generator = np.random.default_rng(seed)
    return {spec.name: _draw_one(spec, generator) for spec in inputs}


def _draw_one(spec: TensorSpec, generator: np.random.Generator) -> Array:
    if spec.shape is None or not spec.dtype:
        raise SamplesError(f"Nothing says what input {spec.name or 'of the model'} looks like.", remedy=WHAT_TO_LOG)
    sizes = [_drawn_size(axis, dimension) for axis, dimension in enumerate(spec.shape)]
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:  # text, in a framework's own word for it
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return generator.standard_normal(sizes).astype(dtype)
    if dtype.kind in "iub":
        return generator.integers(0, 2, sizes).astype(dtype)
    raise SamplesError(f"Input {spec.name} takes {spec.dtype}; {_NUMBERS_ONLY}", remedy=_OUT_OF_THE_MODEL)


def _drawn_size(axis: int, dimension: Dimension) -> int:
    if isinstance(dimension, int):
        return dimension
    return _DRAWN_BATCH if axis == 0 else _DRAWN_SIZE
