"""The same module computed another way, by which its own noise is known: in float64, with one thread.

A small module is copied into float64 once. Of a large one each operator gets its arguments in float64, and they
go when it is done: no more of it than one layer is there twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from registry_export.format import Array, Tensors

Infer = Callable[[Tensors], dict[str, Array]]

_LARGEST_COPY = 256 << 20
"""Bytes of weights above which no copy in float64 is made, which takes twice as many."""


def variants(
    infer: Callable[[Tensors, Any], dict[str, Array]], call: Any, module: torch.nn.Module | None
) -> Mapping[str, Infer]:
    """Return the ways in which a module can be computed besides the plain one, by name.

    Args:
        infer: Runs a call on arrays.
        call: The plain call: takes tensors in order.
        module: The module behind it, whose `call` it is; None where there is only a program.
    """
    ways: dict[str, Infer] = {}
    if module is not None and (size := _bytes_in_single(module)):
        ways["float64"] = lambda inputs: infer(inputs, (_doubled if size <= _LARGEST_COPY else _widened)(module))
    if torch.get_num_threads() > 1:
        ways["one thread"] = lambda inputs: _on_one_thread(lambda: infer(inputs, call))
    return ways


def _bytes_in_single(module: torch.nn.Module) -> int:
    """Return the size of a module's float weights; 0 unless all of them are float32."""
    floats = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
    return sum(p.numel() * p.element_size() for p in floats) if all(p.dtype == torch.float32 for p in floats) else 0


def _doubled(module: Any) -> Callable[[Sequence[torch.Tensor]], Any]:
    """Return the call of a module's copy in float64; it is made once."""
    made = module.__dict__.get("_in_float64")
    if made is None:
        made = copy.deepcopy(module).double()
        module.__dict__["_in_float64"] = made  # not an attribute: that would make it a part of the module

    def call(tensors: Sequence[torch.Tensor]) -> Any:
        with _default(torch.float64):
            return made.call([t.double() if t.dtype == torch.float32 else t for t in tensors])

    return call


def _widened(module: Any) -> Callable[[Sequence[torch.Tensor]], Any]:
    """Return the call of a module whose operators are given float64, one after another."""

    def call(tensors: Sequence[torch.Tensor]) -> Any:
        with _default(torch.float64), _InDouble():
            return module.call([t.double() if t.dtype == torch.float32 else t for t in tensors])

    return call


class _InDouble(TorchDispatchMode):
    """Computes every operator in float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:  # a look-up is exact; the table may be half of the model
            return func(*args, **(kwargs or {})).double()
        if any(value.alias_info is not None and value.alias_info.is_write for value in func._schema.arguments):
            written = [
                value
                for value, spec in zip(args, func._schema.arguments, strict=False)
                if spec.alias_info is not None and spec.alias_info.is_write
            ]
            if any(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in written):
                raise TypeError(f"{func} writes into a float32 tensor, which a copy in float64 would not be.")
        given, named = tree_map(_wide, (args, kwargs or {}))
        return func(*given, **named)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _on_one_thread(run: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(threads)
