"""What PyTorch computes inside a call: every operator's results, with the module that called it.

Operators are seen where the dispatcher hands them to their kernels, so that arithmetic between modules,
submodules called several times, and TorchScript are seen as well.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from registry_export.format import Intermediate
from registry_export_plugins._torch.modules import to_array

See = Callable[[Intermediate], None]
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WIDEST = {float: torch.float64, int: torch.int64, bool: torch.bool}
_PATIENCE = 0.05
INPUT = "an input"
_MOVES = ("aten.detach", "aten.alias", "aten.lift_fresh")


def watched(call: Callable[[Sequence[Any]], Any], module: Any, tensors: Sequence[Any]) -> Iterator[Intermediate]:
    """Run a call, and yield what its operators make of the tensors.

    Args:
        call: Takes the tensors in order.
        module: Whose submodules give the places their names; a script has none to offer.
        tensors: The inputs; what does not depend on them is not shown.
    """
    # Operators call us: the model runs in a thread of its own, one tensor ahead.
    shelf: queue.Queue[Intermediate] = queue.Queue(1)
    left = threading.Event()

    def see(one: Intermediate) -> None:
        while not left.is_set():
            try:
                shelf.put(one, timeout=_PATIENCE)
            except queue.Full:
                continue
            return
        raise _LeftError

    with ThreadPoolExecutor(1) as executor:
        run = executor.submit(_watch, call, module, tensors, see)
        try:
            while not (run.done() and shelf.empty()):
                with suppress(queue.Empty):
                    yield shelf.get(timeout=_PATIENCE)
            run.result()
        finally:
            left.set()


class _LeftError(Exception):
    """Ends a run that nobody looks at any more."""


def _watch(call: Callable[[Sequence[Any]], Any], module: Any, tensors: Sequence[Any], see: See) -> None:
    path: list[str] = []
    with ExitStack() as stack:
        if isinstance(module, torch.nn.Module) and not isinstance(module, torch.jit.ScriptModule):
            stack.enter_context(_followed(module, path))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Watch(tensors, path, see))
        call(tensors)


@contextmanager
def _followed(module: torch.nn.Module, path: list[str]) -> Iterator[None]:
    """Keep in `path` the names of the modules that are being called, the innermost last."""
    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue

        def enter(_: Any, __: Any, name: str = name) -> None:
            path.append(name)

        def leave(_: Any, __: Any, ___: Any) -> None:
            path.pop()

        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watch(TorchDispatchMode):
    def __init__(self, tensors: Sequence[Any], path: list[str], see: See) -> None:
        super().__init__()
        self._path, self._see = path, see
        self._names = WeakIdKeyDictionary()
        self._written: dict[int, tuple[str, Any]] = {}
        self._count = 0
        for tensor in tensors:
            self._names[tensor] = INPUT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        after = tuple(dict.fromkeys(self._made(value) for value in tree_leaves((args, kwargs))))
        result = func(*_as_asked(func, args), **kwargs)
        after = tuple(name for name in after if name)
        if after:
            self._show(func, after, [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)])
            if func._schema.is_mutable:
                self._note_writes(func, args)
        return result

    def _made(self, value: Any) -> str:
        """Name what a tensor was made by; empty: it depends on no input."""
        if not isinstance(value, torch.Tensor):
            return ""
        written = self._written.get(_place(value))
        return written[0] if written else str(self._names.get(value, ""))

    def _show(self, func: Any, after: tuple[str, ...], leaves: Sequence[torch.Tensor]) -> None:
        kind = str(func)
        if kind.startswith(_MOVES) and len(after) == 1:
            for leaf in leaves:
                self._names[leaf] = after[0]
            return
        self._count += 1
        operator = kind.removeprefix("aten.").rpartition(".")[0]
        for position, leaf in enumerate(leaves):
            name = f"{operator} #{self._count}" + (f".{position}" if len(leaves) > 1 else "")
            self._names[leaf] = name
            comparable = leaf.dtype in _FLOATS and not leaf.is_nested and leaf.numel() > 0
            value = to_array(leaf) if comparable else None
            self._see(Intermediate(name, value, self._path[-1] if self._path else "", operator, after))

    def _note_writes(self, func: Any, args: Sequence[Any]) -> None:
        """Remember who wrote into a storage last: what was a view of it has changed too."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is None or not argument.alias_info.is_write or not isinstance(value, torch.Tensor):
                continue
            if value.numel() * value.element_size() < value.untyped_storage().nbytes():
                # Kept, so that its place is given to no other; a tensor written whole is known by itself.
                self._written[_place(value)] = (str(self._names.get(value, "")), value)
            else:
                self._written.pop(_place(value), None)


def _as_asked(func: Any, args: Sequence[Any]) -> list[Any]:
    """Make tensors of the numbers that stand for one: TorchScript hands a number over that it holds as a tensor."""
    wanted = [str(argument.type) == "Tensor" for argument in func._schema.arguments]
    return [
        torch.scalar_tensor(value, dtype=_WIDEST[type(value)]) if is_tensor and type(value) in _WIDEST else value
        for value, is_tensor in zip(args, wanted, strict=False)
    ]


def _place(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return -1
