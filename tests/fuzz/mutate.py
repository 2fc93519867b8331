"""Valid inputs, spoiled: bytes flipped, cut, doubled and swapped, numbers replaced by extremes, brackets nested."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NUMBERS = (
    b"0", b"-0", b"-1", b"1", b"127", b"128", b"255", b"256", b"65536", b"2147483647", b"2147483648", b"-2147483649",
    b"4294967295", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616",
    b"1e400", b"-1e400", b"1e-400", b"NaN", b"Infinity", b"-Infinity", b"0.1", b"1" * 400, b"9" * 5000,
    b"0x41", b"1_0", b"1:2:3",
)  # fmt: skip
_BINARY = tuple(
    struct.pack(form, number & (256 ** struct.calcsize(form) - 1))
    for form in ("<B", "<H", "<I", "<Q", ">I")
    for number in (0, 1, -1, 0x7F, 0x80, 0x7FFF_FFFF, 0x8000_0000, 0x7FFF_FFFF_FFFF_FFFF, 1 << 40)
)
_PIECES = (
    b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"../", b"/etc/passwd", b"\\",
    b'"', b"'", b"{", b"}",
    b"[", b"]", b",", b":", b"\n", b"\t", b"null", b"true", b"{}", b"[]", b"%s%n", b"<script>", b"&a ", b"*a", b"<<: ",
    b"!!python/object:os.system ",
    b"--- ", b"\\u0000", b"\\ud800", b"=", b"+", b".", b"@", b"#",
)  # fmt: skip
_NESTED = ((b"[", b"]"), (b"(", b")"), (b'{"a":', b"}"), (b"-", b""), (b"- ", b""), (b"\x0a\x02", b""))


class Mutator:
    """Makes inputs, the same ones for the same seed.

    Args:
        seeds: Valid inputs.
        rng: Decides.
        words: What may stand in such inputs: keys, magic numbers.
        most_bytes: How long an input may become.
    """

    def __init__(
        self, seeds: Sequence[bytes], rng: random.Random, words: Sequence[bytes] = (), most_bytes: int = 64 * 1024
    ) -> None:
        self._most_bytes = most_bytes
        self._seeds, self._rng = list(seeds), rng
        self._pieces = (*_PIECES, *words)
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._flip, self._flip, self._byte, self._cut, self._double, self._insert, self._insert,
            self._number, self._number,
            self._binary, self._nest, self._splice, self._end, self._swap,
        )  # fmt: skip

    def make(self) -> bytes:
        """Make the next input: one of the seeds, spoiled in one to five ways."""
        data = self._rng.choice(self._seeds)
        for _ in range(self._rng.choice((1, 1, 1, 2, 3, 5))):
            data = self._rng.choice(self._ways)(data)[: self._most_bytes]
        return data

    def _at(self, data: bytes) -> int:
        return self._rng.randrange(len(data) + 1)

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self._at(data)
        return start, min(len(data), start + self._rng.choice((1, 2, 4, 8, 32, 256)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._rng.randrange(8))]) + data[at + 1 :]

    def _byte(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes([self._rng.randrange(256)]) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _double(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:end] + data[start:end] * self._rng.choice((1, 1, 2, 50)) + data[end:]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._rng.choice(self._pieces) + data[at:]

    def _number(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data[:4096]))
        if not found:
            return self._insert(data)
        one = self._rng.choice(found)
        return data[: one.start()] + self._rng.choice(_NUMBERS) + data[one.end() :]

    def _binary(self, data: bytes) -> bytes:
        at, piece = self._at(data), self._rng.choice(_BINARY)
        return data[:at] + piece + data[at + len(piece) :]

    def _nest(self, data: bytes) -> bytes:
        start, end = self._span(data)
        opening, closing = self._rng.choice(_NESTED)
        depth = self._rng.choice((1, 2, 40, 200, 1500, 5000))
        return data[:start] + opening * depth + data[start:end] + closing * depth + data[end:]

    def _splice(self, data: bytes) -> bytes:
        other = self._rng.choice(self._seeds)
        return data[: self._at(data)] + other[self._at(other) :]

    def _end(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _swap(self, data: bytes) -> bytes:
        (a, b), (c, d) = sorted((self._span(data), self._span(data)))
        return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
