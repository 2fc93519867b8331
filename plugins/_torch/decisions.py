"""Which sides a module's decisions on data take while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

Taken = dict[str, set[bool]]
"""By place (`net.py:12`): the sides taken so far."""


@contextmanager
def recorded(taken: Taken) -> Iterator[None]:
    """Note the sides of every `if` on a tensor in the author's code, and of every `torch.cond`.

    PyTorch's own decisions (on masks, for a faster kernel) are left out: they are none of the model's. What
    TorchScript decides cannot be seen from Python.
    """
    of_tensor, cond = torch.Tensor.__bool__, torch.cond
    torch.Tensor.__bool__ = _noting(of_tensor, taken)
    torch.cond = _noting_cond(cond, taken)
    try:
        yield
    finally:
        torch.Tensor.__bool__ = of_tensor
        torch.cond = cond


def _noting(original: Callable[[torch.Tensor], bool], taken: Taken) -> Callable[[torch.Tensor], bool]:
    def noting(tensor: torch.Tensor) -> bool:
        side = original(tensor)
        frame = sys._getframe(1)
        if not _is_torch(frame):
            taken.setdefault(_place(frame), set()).add(bool(side))
        return side

    return noting


def _noting_cond(original: Callable[..., Any], taken: Taken) -> Callable[..., Any]:
    def noting(pred: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            side = bool(pred.item()) if isinstance(pred, torch.Tensor) else bool(pred)
            taken.setdefault(_place(sys._getframe(1)), set()).add(side)
        return original(pred, *args, **kwargs)

    return noting


def _is_torch(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OWN)


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
