"""Operators that give elements another shape, or take a part of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from registry_export_plugins._mxnet.builder import Builder, Shape
from registry_export_plugins._mxnet.elementwise import Translate
from registry_export_plugins._mxnet.files import Node

_FIRST, _LAST = -(2**63) + 1, 2**63 - 1

Part = int | tuple[int, ...]
"""One size of a new shape: a number, -1 for the rest, or the axes whose sizes it is the product of."""


def parts_of(node: Node, codes: Sequence[int], rank: int) -> list[Part]:
    """Read MXNet's codes of a new shape.

    0 keeps an axis, -1 is what is left, -2 keeps all further axes, -3 merges two, -4 splits one in two.
    Source: the documentation of `Reshape`, https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/
    """
    parts: list[Part] = []
    axis, position = 0, 0
    while position < len(codes):
        code = codes[position]
        if code == -2:
            parts += [(a,) for a in range(axis, rank)]
            axis = rank
        elif code == -3:
            parts.append((axis, axis + 1))
            axis += 2
        elif code == -4:
            parts += _split(node, axis, codes[position + 1 : position + 3])
            position += 2
            axis += 1
        else:
            parts.append((axis,) if code == 0 else code)
            axis += 1
        position += 1
    return parts


def _split(node: Node, axis: int, sizes: Sequence[int]) -> list[Part]:
    """Split an axis; a size that is left open is known where the axis is, and is written as -1 where not."""
    if sizes[0] == -1 and sizes[1] == 1:
        return [(axis,), 1]
    if sizes[0] == 1 and sizes[1] == -1:
        return [1, (axis,)]
    return list(sizes)


def reshaped(b: Builder, node: Node, x: str, parts: Sequence[Part]) -> str:
    """Reshape, with sizes that are known as numbers, one open size as -1, and others read from the input."""
    shape = b.shape(x)
    sizes: list[int | None] = [_size(part, shape) for part in parts]
    made: Shape = tuple(
        shape[part[0]] if isinstance(part, tuple) and len(part) == 1 else size if size != -1 else None
        for part, size in zip(parts, sizes, strict=True)
    )
    direct = [0 if size is None and parts[i] == (i,) else size for i, size in enumerate(sizes)]
    if direct.count(None) == 1 and -1 not in direct:
        direct[direct.index(None)] = -1
    numbers = [size for size in direct if size is not None]
    if len(numbers) == len(direct):
        wanted = b.integers(*numbers)
    else:
        wanted = b.op("Concat", *(_dynamic(b, x, p, s) for p, s in zip(parts, sizes, strict=True)), axis=0)
    result = b.op("Reshape", x, wanted)
    if result in b.constants or b.has_fixed_shape(result):
        return result
    return b.set_shape(result, made)


def _size(part: Part, shape: Shape) -> int | None:
    if isinstance(part, int):
        return part
    sizes = [shape[axis] for axis in part]
    return math.prod(size for size in sizes if isinstance(size, int)) if all_known(sizes) else None


def all_known(sizes: Sequence[int | str | None]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _dynamic(b: Builder, x: str, part: Part, size: int | None) -> str:
    if size is not None:
        return b.integers(size)
    assert isinstance(part, tuple)
    factors = [b.op("Slice", b.op("Shape", x), b.integers(axis), b.integers(axis + 1)) for axis in part]
    product = factors[0]
    for factor in factors[1:]:
        product = b.op("Mul", product, factor)
    return product


def _reshape(b: Builder, node: Node, inputs: list[str]) -> str:
    x, codes = inputs[0], list(node.sizes("shape", ()))
    rank = b.rank(x)
    if not codes:
        raise node.unsupported("with a target_shape, which MXNet gave up, has no translation to ONNX here")
    if node.get("reverse", False):
        if -4 in codes:
            raise node.unsupported("from the right with the code -4 has no translation to ONNX here")
        mirrored = parts_of(node, codes[::-1], rank)[::-1]
        parts = [tuple(rank - 1 - a for a in part[::-1]) if isinstance(part, tuple) else part for part in mirrored]
        return reshaped(b, node, x, parts)
    return reshaped(b, node, x, _closed(parts_of(node, codes, rank), codes, b.shape(x)))


def _closed(parts: list[Part], codes: Sequence[int], shape: Shape) -> list[Part]:
    """Put a number where the code -4 left one of two sizes open and the split axis has a known size."""
    position = axis = 0
    for at, code in enumerate(codes):
        if at >= 2 and -4 in codes[at - 2 : at]:
            continue  # the sizes of a split
        if code == -4:
            pair, size = parts[position : position + 2], shape[axis]
            if isinstance(size, int):
                known = [part for part in pair if isinstance(part, int) and part != -1]
                rest = size // math.prod(known) if known else size
                parts[position : position + 2] = [rest if part == -1 else part for part in pair]
            position, axis = position + 2, axis + 1
        elif code == -2:
            break
        else:
            position, axis = position + 1, axis + (2 if code == -3 else 1)
    return parts


def _reshape_like(b: Builder, node: Node, inputs: list[str]) -> str:
    if any(node.get(key) is not None for key in ("lhs_begin", "lhs_end", "rhs_begin", "rhs_end")):
        raise node.unsupported("of some axes has no translation to ONNX here")
    return b.set_shape(b.op("Reshape", inputs[0], b.op("Shape", inputs[1])), b.shape(inputs[1]))


def _flatten(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Flatten", inputs[0], axis=1)


def _transpose(b: Builder, node: Node, inputs: list[str]) -> str:
    rank = b.rank(inputs[0])
    return b.op("Transpose", inputs[0], perm=node.sizes("axes", ()) or tuple(reversed(range(rank))))


def _swap_axis(b: Builder, node: Node, inputs: list[str]) -> str:
    order = list(range(b.rank(inputs[0])))
    one, two = (b.axis(inputs[0], node.get(key, 0)) for key in ("dim1", "dim2"))
    order[one], order[two] = order[two], order[one]
    return b.op("Transpose", inputs[0], perm=order)


def sliced(b: Builder, x: str, axis: int, begin: int | None, end: int | None, step: int = 1) -> str:
    """Slice one axis as Python does."""
    begin = (0 if step > 0 else _LAST) if begin is None else begin
    end = (_LAST if step > 0 else _FIRST) if end is None else end
    return b.op("Slice", x, *(b.integers(value) for value in (begin, end, axis, step)))


def _slice(b: Builder, node: Node, inputs: list[str]) -> str:
    x, begin, end = inputs[0], node.sizes("begin", ()), node.sizes("end", ())
    steps = node.sizes("step", ()) or (None,) * len(begin)
    for axis, (first, last, step) in enumerate(zip(begin, end, steps, strict=True)):
        if (first, last, step) != (None, None, None):
            x = sliced(b, x, axis, first, last, step or 1)
    return x


def _slice_axis(b: Builder, node: Node, inputs: list[str]) -> str:
    return sliced(b, inputs[0], b.axis(inputs[0], node.get("axis")), node.get("begin", 0), node.get("end"))


def _slice_like(b: Builder, node: Node, inputs: list[str]) -> str:
    x, like = inputs
    for axis in node.sizes("axes", ()) or range(b.rank(x)):
        axis = b.axis(x, axis)
        end = b.op("Slice", b.op("Shape", like), b.integers(axis), b.integers(axis + 1))
        shape = [*b.shape(x)]
        shape[axis] = b.shape(like)[axis]
        x = b.set_shape(b.op("Slice", x, b.integers(0), end, b.integers(axis)), shape)
    return x


def _crop(b: Builder, node: Node, inputs: list[str]) -> str:
    x = inputs[0]
    offset = node.sizes("offset", (0, 0))
    wanted: Sequence[int | str | None] = b.shape(inputs[1])[2:] if len(inputs) == 2 else node.sizes("h_w", (0, 0))
    own = b.shape(x)[2:]
    if not all_known([*wanted, *own]):
        raise node.unsupported("needs fixed sizes of its inputs")
    for axis, (start, size, whole) in enumerate(zip(offset, wanted, own, strict=True), start=2):
        assert isinstance(size, int)
        assert isinstance(whole, int)
        first = (whole - size) // 2 if node.get("center_crop", False) else start
        x = sliced(b, x, axis, first, first + size)
    return x


def _slice_channel(b: Builder, node: Node, inputs: list[str]) -> tuple[str, ...]:
    axis = b.axis(inputs[0], node.get("axis", 1))
    made = b.ops("Split", node.get("num_outputs"), inputs[0], axis=axis) if node.get("num_outputs") > 1 else inputs
    return tuple(_without(b, part, axis) if node.get("squeeze_axis", False) else part for part in made)


def _without(b: Builder, x: str, axis: int) -> str:
    return b.op("Squeeze", x, b.integers(axis))


def _split_v2(b: Builder, node: Node, inputs: list[str]) -> tuple[str, ...]:
    x, axis, sections = inputs[0], b.axis(inputs[0], node.get("axis", 0)), node.get("sections", 0)
    if sections:
        made = b.ops("Split", sections, x, axis=axis)
    else:
        bounds = [*node.sizes("indices", ()), None]
        made = tuple(sliced(b, x, axis, *pair) for pair in pairwise(bounds))
    return tuple(_without(b, part, axis) if node.get("squeeze_axis", False) else part for part in made)


def _expand_dims(b: Builder, node: Node, inputs: list[str]) -> str:
    return b.op("Unsqueeze", inputs[0], b.integers(node.get("axis")))


def _squeeze(b: Builder, node: Node, inputs: list[str]) -> str:
    x, axis = inputs[0], node.get("axis")
    shape = b.shape(x)
    axes = [a for a, size in enumerate(shape) if size == 1] if axis is None else node.sizes("axis", ())
    return b.op("Squeeze", x, b.integers(*(b.axis(x, a) for a in axes))) if axes else x


OPERATORS: dict[str, Translate] = {
    "Reshape": _reshape,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "Flatten": _flatten,
    "flatten": _flatten,
    "transpose": _transpose,
    "SwapAxis": _swap_axis,
    "swapaxes": _swap_axis,
    "slice": _slice,
    "crop": _slice,
    "slice_axis": _slice_axis,
    "slice_like": _slice_like,
    "Crop": _crop,
    "SliceChannel": _slice_channel,
    "split": _slice_channel,
    "_split_v2": _split_v2,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
}
