"""Where a value stands, so that a refusal can point at it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry_export.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST, _END = 2000, 300
"""Characters of a refusal, and how many of them are its end."""


@dataclass(frozen=True)
class Place:
    """A value's place in what a person wrote.

    Attributes:
        source: The file, or what stands for it (`--target`, a tag's name).
        line: Counted from 1; None where there are no lines.
        key: The way to the value (`rules[0].targets[1].onnx`); empty at the top.
    """

    source: str
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        parts = (self.source, "" if self.line is None else str(self.line))
        return ": ".join(part for part in (":".join(part for part in parts if part), self.key) if part)

    def child(self, name: str, line: int | None = None) -> Place:
        """The place of a key inside this one."""
        return replace(self, key=f"{self.key}.{name}" if self.key else name, line=line or self.line)

    def item(self, index: int, line: int | None = None) -> Place:
        """The place of a list's item."""
        return replace(self, key=f"{self.key}[{index}]", line=line or self.line)

    def error(self, what: str) -> ConfigurationError:
        """The refusal of what stands here, ready to be raised."""
        place = str(self)
        text = f"{place}: {what}" if place else what
        if len(text) > _LONGEST:  # somebody pasted a file into a tag
            text = f"{text[: _LONGEST - _END]} … {text[-_END:]}"
        return ConfigurationError(text)


def among(value: str, choices: Iterable[str]) -> str:
    """Continue a refusal of `value` with the choices, the closest one first when one is close."""
    names = list(choices)
    folded = {name.casefold(): name for name in names}
    typed = value.casefold()
    begun = [name for name in folded if len(typed) > 2 and name.startswith(typed)]
    close = begun or difflib.get_close_matches(typed, folded, n=1)
    hint = f"; did you mean {folded[close[0]]!r}?" if close else ";"
    start = " The" if close else " the"
    return f"{hint}{start} choices are {', '.join(names)}." if names else f"{hint}{start} list of choices is empty."
