"""Reading what a pickle would make, without making it: its opcodes are followed, nothing is imported or called.

Source: the opcodes' documentation in Python's `pickletools`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

_MOST_OPCODES = 5_000_000
_LONGEST_LINE = 1 << 20
MOST_PICKLE_BYTES = 256 * 2**20
"""Of a pickle that is followed: tensors lie beside it, and what is larger is told by loading it, in a child."""


@dataclass
class Made:
    """An object that the pickle would make.

    Attributes:
        name: The class or function that would make it (`collections.OrderedDict`).
        arguments: What that would be called with.
        items: What would be set by key.
        state: What it would be given to restore itself from.
    """

    name: str
    arguments: Any = ()
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Global:
    """A name that the pickle would import (`torch.nn.modules.linear.Linear`)."""

    name: str


class _Mark:
    pass


_MARK = _Mark()


@dataclass
class Outline:
    """What a pickle would make, and every name that it would import on the way."""

    value: Any
    names: frozenset[str]


def outline(stream: BinaryIO) -> Outline:
    """Follow the opcodes of the pickle at the stream's position, up to its end.

    Args:
        stream: Is left behind the pickle's last opcode.

    Raises:
        ValueError: It is no pickle, or a damaged one.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, _Bounded(stream)))):
            if count > _MOST_OPCODES:
                raise ValueError("the pickle is too long to be read without loading it")
            machine.step(opcode, argument)
    except (LookupError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"damaged pickle: {type(error).__name__}") from error
    return Outline(machine.stack[-1] if machine.stack else None, frozenset(machine.names))


class _Bounded:
    """A stream of which no more is read than a pickle may have, whatever lengths it declares."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MOST_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        self._take(size)
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline(_LONGEST_LINE)
        self._take(len(line))
        return line

    def tell(self) -> int:
        return self._stream.tell()

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("the pickle is too large to be read without loading it")


class _Machine:
    """The pickle machine with inert objects. Opcodes without a method pop and push as `pickletools` says."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        method = getattr(self, f"_{opcode.name.lower()}", None)
        if method is not None:
            method(argument)
        elif opcode.name in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode.name])
        elif opcode.arg is not None and not opcode.stack_before and len(opcode.stack_after) == 1:
            self.stack.append(argument)
        else:
            self._unknown(opcode)

    def _unknown(self, opcode: pickletools.OpcodeInfo) -> None:
        if pickletools.markobject in opcode.stack_before:
            self._to_mark()
        elif opcode.stack_before:
            del self.stack[-len(opcode.stack_before) :]
        self.stack.extend(None for _ in opcode.stack_after)

    def _to_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
        taken = self.stack[position + 1 :]
        del self.stack[position:]
        return taken

    def _import(self, name: str) -> None:
        self.names.add(name)
        self.stack.append(Global(name))

    def _make(self, maker: Any, arguments: Any) -> None:
        if isinstance(maker, Global) and maker.name.endswith(".subimport"):  # cloudpickle's way to name a module
            self.names.update(argument for argument in arguments if isinstance(argument, str))
        self.stack.append(Made(maker.name if isinstance(maker, Global) else "", arguments))

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Made) else target
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, (str, int, float, bool, bytes)):
                entries[key] = value

    # Each method below is the opcode of its name; `argument` is the opcode's.

    def _proto(self, argument: Any) -> None: ...

    def _frame(self, argument: Any) -> None: ...

    def _stop(self, argument: Any) -> None: ...

    def _mark(self, argument: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, argument: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, argument: Any) -> None:
        self._to_mark()

    def _dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, argument: Any) -> None:
        self.memo[int(argument)] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    _binget = _long_binget = _get

    def _empty_dict(self, argument: Any) -> None:
        self.stack.append({})

    def _empty_list(self, argument: Any) -> None:
        self.stack.append([])

    def _empty_tuple(self, argument: Any) -> None:
        self.stack.append(())

    def _dict(self, argument: Any) -> None:
        pairs = self._to_mark()
        self.stack.append({})
        self._set(pairs)

    def _list(self, argument: Any) -> None:
        self.stack.append(self._to_mark())

    def _tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _tuple1(self, argument: Any) -> None:
        self._tuple_of(1)

    def _tuple2(self, argument: Any) -> None:
        self._tuple_of(2)

    def _tuple3(self, argument: Any) -> None:
        self._tuple_of(3)

    def _tuple_of(self, size: int) -> None:
        elements = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(elements)

    def _setitem(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, argument: Any) -> None:
        self._set(self._to_mark())

    def _append(self, argument: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, argument: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, elements: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(elements)

    def _additems(self, argument: Any) -> None:
        self._to_mark()

    def _global(self, argument: Any) -> None:
        self._import(argument.replace(" ", ".", 1))

    def _stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("damaged pickle: a name that is no text")  # text of anything else may be without end
        self._import(f"{module}.{name}")

    def _inst(self, argument: Any) -> None:
        self._global(argument)
        maker, arguments = self.stack.pop(), tuple(self._to_mark())
        self._make(maker, arguments)

    def _obj(self, argument: Any) -> None:
        maker, *arguments = self._to_mark()
        self._make(maker, tuple(arguments))

    def _reduce(self, argument: Any) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        self._make(maker, arguments)

    _newobj = _reduce

    def _newobj_ex(self, argument: Any) -> None:
        _, arguments, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._make(maker, arguments)

    def _build(self, argument: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def _binpersid(self, argument: Any) -> None:
        self.stack.append(Made("", self.stack.pop()))

    def _persid(self, argument: Any) -> None:
        self.stack.append(Made("", argument))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
