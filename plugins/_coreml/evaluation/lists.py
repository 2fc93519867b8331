"""Lists of tensors, which loops fill and read. An operation gives a new list and leaves the old one as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from registry_export_plugins._coreml.evaluation.registry import Tensor, bounded, flag, integer, integers, operator

_DTYPES = {"fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class TensorList:
    """A list.

    Attributes:
        items: Its tensors, None where none was written yet.
        grows: Whether it becomes longer where something is written behind its end.
        dtype: Element type of its tensors.
        shape: Their sizes, where the program tells them all.
    """

    items: tuple[Tensor | None, ...]
    grows: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None

    def read(self, index: int) -> Tensor:
        """Return an item; zeros where none was written."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"the list of {len(self.items)} has no item {index}")
        item = self.items[index]
        if item is not None:
            return item
        if self.shape is None:
            raise IndexError(f"nothing was written to item {index} of the list")
        return np.zeros(bounded(self.shape), self.dtype)

    def written(self, positions: tuple[int, ...], values: Tensor) -> TensorList:
        """Return the list with items overwritten."""
        items = list(self.items)
        for index, value in zip(positions, values, strict=True):
            if index < 0 or (index >= len(items) and not self.grows):
                raise IndexError(f"the list of {len(items)} has no item {index}")
            bounded([index])
            items += [None] * (index + 1 - len(items))
            items[index] = np.asarray(value).astype(self.dtype)
        return TensorList(tuple(items), self.grows, self.dtype, self.shape)


@operator()
def make_list(
    init_length: Any = 1, dynamic_length: Any = True, elem_shape: Any = None, dtype: str = "fp32"
) -> TensorList:
    """Make an empty list."""
    sizes = elem_shape if isinstance(elem_shape, tuple) else () if elem_shape is None else (elem_shape,)
    told = [size for item in sizes for size in ([item] if isinstance(item, str) else integers(item))]
    known = elem_shape is not None and all(isinstance(size, int) and size >= 0 for size in told)
    length = bounded([integer(init_length)])[0]
    return TensorList(
        (None,) * length,
        flag(dynamic_length),
        np.dtype(_DTYPES.get(dtype, dtype)),
        tuple(int(size) for size in told) if known else None,
    )


@operator()
def list_length(ls: TensorList) -> Tensor:
    """Count the items."""
    return np.array(len(ls.items), np.int32)


@operator()
def list_read(ls: TensorList, index: Any) -> Tensor:
    """Read one item."""
    return ls.read(integer(index))


@operator(exact=True)
def list_write(ls: TensorList, index: Any, value: Tensor) -> TensorList:
    """Write one item."""
    return ls.written((integer(index),), np.asarray(value)[None])


@operator()
def list_gather(ls: TensorList, indices: Any) -> Tensor:
    """Read items into one tensor."""
    return np.stack([ls.read(index) for index in integers(indices)])


@operator(exact=True)
def list_scatter(ls: TensorList, indices: Any, value: Tensor) -> TensorList:
    """Write the parts of a tensor as items."""
    return ls.written(integers(indices), value)
