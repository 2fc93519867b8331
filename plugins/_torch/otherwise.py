"""The same module computed another way, by which its own noise is known: in float64, with one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from registry_export.format import Array, Tensors

Infer = Callable[[Tensors], dict[str, Array]]

_LARGEST_COPY = 1 << 30
"""Bytes of weights above which no copy in float64 is made: it takes twice as many, and as long as it is large."""


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
    if module is not None and _can_be_doubled(module):
        ways["float64"] = lambda inputs: infer(inputs, _doubled(module))
    if torch.get_num_threads() > 1:
        ways["one thread"] = lambda inputs: _on_one_thread(lambda: infer(inputs, call))
    return ways


def _can_be_doubled(module: torch.nn.Module) -> bool:
    floats = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
    size = sum(p.numel() * p.element_size() for p in floats)
    return bool(floats) and size <= _LARGEST_COPY and all(p.dtype == torch.float32 for p in floats)


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
