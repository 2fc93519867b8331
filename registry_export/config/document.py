"""A YAML document read with the place of every value, so that each refusal can name its line.

PyYAML's composer is used instead of its constructor: nodes still know where they stand, an unknown
tag builds nothing, and a duplicate key is seen instead of silently winning.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from registry_export.config.places import Place, among

if TYPE_CHECKING:
    from collections.abc import Collection

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name: name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Entry:
    """One value of the document and its place."""

    node: yaml.Node
    place: Place

    def mapping(self, known: Collection[str] = ()) -> dict[str, Entry]:
        """Read a mapping.

        Args:
            known: The only keys allowed; empty for any.
        """
        if not isinstance(self.node, yaml.MappingNode) or self.node.tag != _TAG + "map":
            keys = f" with the keys {', '.join(known)}" if known else ""
            raise self.place.error(f"must be a mapping{keys}, not {self._found()}.")
        entries: dict[str, Entry] = {}
        for key_node, value_node in self.node.value:
            line = key_node.start_mark.line + 1
            key = Entry(key_node, Place(self.place.source, line, self.place.key)).text("a key")
            place = self.place.child(key, line)
            if key in entries:
                raise place.error(f"the key stands twice; first in line {entries[key].place.line}.")
            if known and key not in known:
                raise place.error(f"unknown key {key!r}{among(key, known)}")
            entries[key] = Entry(value_node, place)
        return entries

    def items(self, of: str) -> list[Entry]:
        """Read a list; `of` says in a refusal what it is a list of."""
        if not isinstance(self.node, yaml.SequenceNode) or self.node.tag != _TAG + "seq":
            raise self.place.error(f"must be a list of {of}, not {self._found()}.")
        return [
            Entry(node, self.place.item(index, node.start_mark.line + 1)) for index, node in enumerate(self.node.value)
        ]

    def text(self, what: str = "text") -> str:
        """Read printable text that is not empty; a number counts as what was typed."""
        value = self.scalar(what)
        if value is None or isinstance(value, bool):
            raise self.place.error(f"must be {what}, not {self._found()}; if it is text, put it in quotes.")
        text = str(self.node.value)
        if not text or not text.isprintable():
            raise self.place.error(f"must be {what}, not {text!r}.")
        return text

    def one_of(self, choices: tuple[str, ...]) -> str:
        """Read one of some words."""
        value = self.text(f"one of {', '.join(choices)}")
        if value not in choices:
            raise self.place.error(f"cannot be {value!r}{among(value, choices)}")
        return value

    def flag(self) -> bool:
        """Read true or false."""
        value = self.scalar("true or false")
        if not isinstance(value, bool):
            raise self.place.error(f"must be true or false, not {self._found()}.")
        return value

    def number(self) -> float:
        """Read a number; `1e-5` counts, which YAML 1.1 takes for text."""
        value = self.scalar("a number")
        if isinstance(value, str) and self.is_plain:
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.place.error(f"must be a number, not {self._found()}.")
        try:
            return float(value)
        except OverflowError:
            raise self.place.error("the number is too large.") from None

    @property
    def is_plain(self) -> bool:
        """Whether it is a scalar without quotes."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is None

    @property
    def is_scalar(self) -> bool:
        """Whether it is neither a list nor a mapping."""
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or `null`."""
        return self.is_scalar and self.node.tag == _TAG + "null"

    def scalar(self, what: str) -> Scalar:
        """Read a single value with the type that YAML gives it; `what` says what was expected."""
        if not self.is_scalar:
            raise self.place.error(f"must be {what}, not {self._found()}.")
        kind = _SCALARS.get(self.node.tag)
        if kind is None:
            raise self.place.error(f"must be {what}; the YAML tag {self.node.tag!r} is not supported.")
        if kind not in ("int", "float", "bool", "null"):
            return str(self.node.value)
        try:
            value: Scalar = yaml.constructor.SafeConstructor().construct_object(self.node)
        except (ValueError, LookupError, OverflowError, yaml.YAMLError):
            raise self.place.error(f"must be {what}, not {self.node.value[:80]!r}.") from None
        return value

    def _found(self) -> str:
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        if self.node.tag == _TAG + "null":
            return "empty"
        return f"{_shorten(str(self.node.value))!r}"


def read_document(text: str, source: str, expected: str) -> Entry:
    """Parse one YAML document.

    Args:
        text: The document.
        source: What refusals call it, usually the file's path.
        expected: What an empty document lacks, for the refusal.

    Raises:
        ConfigurationError: It is empty or is not valid YAML; names the line.
    """
    top = Place(source)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _invalid(error, top, text.splitlines()) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Place(source, line).error(
            f"the character {chr(int(error.character))!r} is not allowed in YAML."
        ) from error
    except RecursionError:
        raise top.error("is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise top.error(f"is not valid YAML: {error}.") from error
    if node is None:
        raise top.error(f"is empty; {expected}")
    return Entry(node, Place(source, node.start_mark.line + 1))


def _invalid(error: yaml.MarkedYAMLError, top: Place, lines: list[str]) -> Exception:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return top.error(f"is not valid YAML: {error.problem or error.context}.")
    place = Place(top.source, mark.line + 1)
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        return place.error("is not valid YAML: a tab; indent with spaces.")
    if "alias" in f"{error.context} {error.problem}" and "*" in line:
        return place.error('is not valid YAML: text that starts with * must be in quotes, as in "*".')
    what = "; ".join(part for part in (error.context, error.problem) if part)
    return place.error(f"is not valid YAML: {what} (column {mark.column + 1}).")


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
