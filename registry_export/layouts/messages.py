"""Protocol buffers of servers whose packages need not be installed: declared here as far as they are written.

What is declared so is written by `google.protobuf` itself, as text or bytes, and is what the server reads: a field
is known by its name in a text, and by its number in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

Fields: TypeAlias = Mapping[str, tuple[int, str]]
"""Field -> its number, and its type: a scalar's, a message's or an enumeration's; `*` behind it: repeated."""

_SCALARS = ("string", "bytes", "bool", "int32", "int64", "uint32", "uint64")


def declare(
    package: str, messages: Mapping[str, Fields], enumerations: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Declare messages.

    Args:
        package: What they are grouped by.
        messages: Message -> fields. One whose name ends in `Entry`, with the fields `key` and `value`, is a map's.
        enumerations: Enumeration -> its names, numbered from 0.

    Returns:
        The classes by the messages' names.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, values in (enumerations or {}).items():
        numbered = [descriptor_pb2.EnumValueDescriptorProto(name=value, number=n) for n, value in enumerate(values)]
        file.enum_type.add(name=name, value=numbered)
    entries = {name for name in messages if name.endswith("Entry")}
    for name in messages.keys() - entries:
        message = file.message_type.add(name=name)
        for field, (number, kind) in messages[name].items():
            _add_field(message, field, number, kind, package, enumerations or {})
            entry = kind.rstrip("*")
            if entry in entries:
                nested = message.nested_type.add(name=entry)
                nested.options.map_entry = True
                for part, (at, type_) in messages[entry].items():
                    _add_field(nested, part, at, type_, package, enumerations or {})
                message.field[-1].type_name = f".{package}.{name}.{entry}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages.keys() - entries
    }


def _add_field(
    message: Any, name: str, number: int, kind: str, package: str, enumerations: Mapping[str, Sequence[str]]
) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number)
    field.label = types.LABEL_REPEATED if kind.endswith("*") else types.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind in _SCALARS:
        field.type = types.Type.Value(f"TYPE_{kind.upper()}")
        return
    field.type = types.TYPE_ENUM if kind in enumerations else types.TYPE_MESSAGE
    field.type_name = f".{package}.{kind}"


def as_text(message: Any) -> str:
    """Write a message in protocol buffers' text format, as UTF-8."""
    return str(text_format.MessageToString(message, as_utf8=True))
