"""What two models' contents differ in: facts, operators, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from registry_export.entities import Contents, Contrast, Dimension, Interface, TensorContents, TensorContrast


def contrast(
    one: tuple[str, Contents], other: tuple[str, Contents], differences: Mapping[str, float | None]
) -> Contrast:
    """Compare two models' contents.

    Sizes of the files are shown, and make no difference by themselves; what only one of the two tells (a graph, say,
    which a file of weights has not) is no difference either, but said.

    Args:
        one: A model's name, and what it holds.
        other: Another one's.
        differences: Largest absolute difference of the tensors that have one name and one shape in both, by name.
    """
    first, second = one[1], other[1]
    facts = dict(_facts(first, second))
    operators = dict(_operators(first, second))
    tensors = tuple(_tensors(first, second, differences))
    return Contrast(
        one=one[0],
        other=other[0],
        same=not (facts.keys() - {_SIZE}) and not operators and not tensors,
        facts=facts,
        operators=operators,
        tensors=tensors,
        equal_tensors=_equal(first, second, differences),
        unsaid=tuple(_unsaid(one, other)),
    )


_SIZE = "size in bytes"


def _facts(one: Contents, other: Contents) -> Iterator[tuple[str, tuple[str, str]]]:
    mine, theirs = _told(one), _told(other)
    for name in dict.fromkeys([*mine, *theirs]):
        pair = mine.get(name, ""), theirs.get(name, "")
        if pair[0] != pair[1]:
            yield name, pair


def _told(contents: Contents) -> dict[str, str]:
    facts = {
        "format": contents.format,
        "precision": contents.precision,
        "format version": contents.format_version,
        "opset": contents.opset_version,
        "IR version": contents.ir_version,
        "parameters": contents.parameters,
        "tensors": contents.tensor_count,
        _SIZE: contents.size_bytes,
        "inputs": _specs(contents.interface, "inputs"),
        "outputs": _specs(contents.interface, "outputs"),
        **{f"opset of {domain}": version for domain, version in contents.opset_imports.items() if domain != "ai.onnx"},
        **contents.metadata,
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _specs(interface: Interface | None, side: str) -> str:
    specs = getattr(interface, side) if interface is not None else ()
    return ", ".join(f"{spec.name} {spec.dtype} {_shape(spec.shape)}".strip() for spec in specs)


def _shape(shape: tuple[Dimension, ...] | None) -> str:
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def _operators(one: Contents, other: Contents) -> Iterator[tuple[str, tuple[int, int]]]:
    if one.operators is None or other.operators is None:
        return
    for name in sorted(one.operators.keys() | other.operators.keys()):
        pair = one.operators.get(name, 0), other.operators.get(name, 0)
        if pair[0] != pair[1]:
            yield name, pair


def _tensors(one: Contents, other: Contents, differences: Mapping[str, float | None]) -> Iterator[TensorContrast]:
    if one.tensors is None or other.tensors is None:
        return
    mine, theirs = {t.name: t for t in one.tensors}, {t.name: t for t in other.tensors}
    renamed = _renamed(mine, theirs)
    for name, tensor in mine.items():
        if name in theirs:
            if not _is_same(tensor, theirs[name], differences):
                yield _contrast("changed", tensor, theirs[name], differences.get(name))
        elif name in renamed:
            yield _contrast("renamed", tensor, theirs[renamed[name]], 0.0)
        else:
            yield TensorContrast(name, "removed", shape=tensor.shape, dtype=tensor.dtype)
    taken = set(renamed.values())
    for name, tensor in theirs.items():
        if name not in mine and name not in taken:
            yield TensorContrast(name, "added", other_shape=tensor.shape, other_dtype=tensor.dtype)


def _contrast(change: str, one: TensorContents, other: TensorContents, max_abs_diff: float | None) -> TensorContrast:
    other_name = other.name if other.name != one.name else ""
    return TensorContrast(one.name, change, one.shape, other.shape, one.dtype, other.dtype, max_abs_diff, other_name)


def _is_same(one: TensorContents, other: TensorContents, differences: Mapping[str, float | None]) -> bool:
    """Say whether two tensors hold the same; where neither can be read, what is told of them decides."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.sha256 is None or other.sha256 is None:
        return one.size_bytes == other.size_bytes and one.sha256 == other.sha256
    # Of floats zero has two signs; large integers are further apart than float64 shows.
    return one.sha256 == other.sha256 or ("float" in one.dtype and differences.get(one.name) == 0)


def _renamed(mine: Mapping[str, TensorContents], theirs: Mapping[str, TensorContents]) -> dict[str, str]:
    """Pair tensors of other names that hold the same elements; scalars and the like say too little for that."""
    free: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, tensor in theirs.items():
        if name not in mine and tensor.sha256 is not None and _tells(tensor):
            free.setdefault((tensor.sha256, tensor.shape), []).append(name)
    pairs = {}
    for name, tensor in mine.items():
        names = free.get((tensor.sha256 or "", tensor.shape), []) if name not in theirs else []
        if names:
            pairs[name] = names.pop(0)
    return pairs


def _tells(tensor: TensorContents) -> bool:
    return tensor.minimum != tensor.maximum


def _equal(one: Contents, other: Contents, differences: Mapping[str, float | None]) -> int:
    theirs = {tensor.name: tensor for tensor in other.tensors or ()}
    return sum(1 for t in one.tensors or () if t.name in theirs and _is_same(t, theirs[t.name], differences))


def _unsaid(*models: tuple[str, Contents]) -> Iterator[str]:
    for name, contents in models:
        if contents.tensors is None:
            yield f"Tensors are not compared: {name} does not tell them."
        elif contents.tensor_count != len(contents.tensors):
            yield f"Of the tensors of {name} the first {len(contents.tensors)} are compared."
        if contents.operators is None:
            yield f"Operators are not compared: {name} does not tell them."
