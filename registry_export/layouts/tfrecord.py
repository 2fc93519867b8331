"""TensorFlow's record files, written without TensorFlow.

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8
_WORD = 0xFFFFFFFF


def records(contents: Iterable[bytes]) -> bytes:
    """Return a file of some records."""
    return b"".join(map(_record, contents))


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _masked(content: bytes) -> bytes:
    crc = _crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & _WORD)


def _crc32c(content: bytes) -> int:
    table, crc = _table(), _WORD
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ _WORD


@functools.cache
def _table() -> tuple[int, ...]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        values.append(value)
    return tuple(values)
