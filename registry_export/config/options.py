"""The values of a target's options: read from either notation, checked against the format's declaration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry_export.config.places import Place, among

if TYPE_CHECKING:
    from registry_export.config.document import Entry
    from registry_export.entities import OptionValue
    from registry_export.format import Option

FLAGS: Mapping[str, bool] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""How true and false are typed on the command line; YAML has its own list, which holds these."""

_TYPE_NAMES: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check(option: Option, value: OptionValue, place: Place) -> OptionValue:
    """Return a value in the option's own type.

    Args:
        option: What the format declares.
        value: What was asked for; None stands for the default where that is None too.
        place: The option's place.

    Raises:
        ConfigurationError: Its type, its size or the value itself is not allowed; names the choices.
    """
    if value is None and option.default is None:
        return None
    if option.parts:
        return _check_parts(option, value, place)
    if option.type is dict:
        return _check_dimensions(value, place)
    if option.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, option.type) or isinstance(value, bool) != (option.type is bool):
        raise place.error(f"must be {_type_name(option)}, not {_shown(value)}{_allowed(option)}")
    if option.choices and value not in option.choices:
        why = option.lacks.get(word(value))
        rest = f": {why}{_allowed(option)}" if why else among(word(value), map(word, option.choices))
        raise place.error(f"cannot be {word(value)!r}{rest}")
    if isinstance(value, str) and option.pattern and not re.fullmatch(option.pattern, value):
        raise place.error(f"must be {option.form}, not {value!r}.")
    if isinstance(value, int | float) and not _within(option, value):
        raise place.error(f"{value} is out of range{_allowed(option)}")
    return value


def from_entry(option: Option, entry: Entry) -> OptionValue:
    """Read a value from YAML; where YAML's type for what was typed is another, the option's type decides.

    Raises:
        ConfigurationError: It has not even the shape of such a value.
    """
    if option.parts and not entry.is_null:
        parts = entry.mapping([part.name for part in option.parts])
        return {part.name: _scalar(part, parts[part.name]) for part in option.parts if part.name in parts}
    if option.type is dict and not entry.is_null:
        return {name: _axes_from_entry(name, axes) for name, axes in entry.mapping().items()}
    value = entry.scalar(_type_name(option))
    if isinstance(value, bool) or value is None:
        return value
    if option.type is str:
        return entry.text()
    if option.type is float and entry.is_plain:
        return entry.number()
    return value


def from_text(option: Option, text: str, place: Place) -> OptionValue:
    """Read a value from the command line's notation; what does not fit stays text, for `check` to refuse.

    Raises:
        ConfigurationError: It is not of the notation of dynamic dimensions.
    """
    if option.parts:
        return _parts_from_text(option, text, place)
    if option.type is dict:
        return _dimensions_from_text(text, place)
    if option.type is bool:
        return FLAGS.get(text.lower(), text)
    if option.type in (int, float):
        try:
            return int(text) if option.type is int else float(text)
        except ValueError:
            return text
    return text


def word(value: OptionValue) -> str:
    """A value as a person types it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(option: Option) -> str:
    return _TYPE_NAMES.get(option.type, "a value")


def _within(option: Option, value: float) -> bool:
    low = float("-inf") if option.minimum is None else option.minimum
    high = float("inf") if option.maximum is None else option.maximum
    return low <= value <= high  # False for NaN


def _allowed(option: Option) -> str:
    if option.choices:
        return f"; the choices are {', '.join(map(word, option.choices))}."
    if option.minimum is not None and option.maximum is not None:
        return f"; the choices are {option.minimum:g} to {option.maximum:g}."
    if option.minimum is not None:
        return f"; the smallest is {option.minimum:g}."
    if option.maximum is not None:
        return f"; the largest is {option.maximum:g}."
    return "."


def _shown(value: OptionValue) -> str:
    if value is None:
        return "empty"
    return f"the text {value!r}" if isinstance(value, str) else word(value)


def _axes_from_entry(name: str, entry: Entry) -> dict[str, str]:
    if entry.is_list:
        axes = [item.text("an axis") for item in entry.items("axes")]
        return {axis: _default_name(name, axis) for axis in axes}
    return {axis: dimension.text("a dimension's name") for axis, dimension in entry.mapping().items()}


def _dimensions_from_text(text: str, place: Place) -> dict[str, dict[str, str]]:
    dimensions: dict[str, dict[str, str]] = {}
    for part in text.split("+"):
        where, _, dimension = (piece.strip() for piece in part.partition("="))
        name, _, axis = where.rpartition(".")
        if not name:
            raise place.error(f"a dynamic dimension is written input.axis=name, as in x.1=seq, not {part.strip()!r}.")
        dimensions.setdefault(name, {})[axis] = dimension or _default_name(name, axis)
    return dimensions


def _default_name(name: str, axis: str) -> str:
    symbol = re.sub(r"\W", "_", f"{name}_{axis}", flags=re.ASCII)
    return f"dim_{symbol}" if symbol[0].isdigit() else symbol


def _scalar(part: Option, entry: Entry) -> str | float:
    value = from_entry(part, entry)
    return value if isinstance(value, str | float) else entry.text()


def _parts_from_text(option: Option, text: str, place: Place) -> dict[str, str | float]:
    parts = {part.name: part for part in option.parts}
    found: dict[str, str | float] = {}
    for piece in text.split("+"):
        name, _, value = (word.strip() for word in piece.partition("="))
        if name not in parts:
            raise place.error(f"has no part {name!r}{among(name, parts)}")
        read = from_text(parts[name], value, place)
        found[name] = read if isinstance(read, float) else value
    return found


def _check_parts(option: Option, value: OptionValue, place: Place) -> OptionValue:
    """Refuse a mapping that lacks a part or has another; all in the order in which they are declared."""
    names = [part.name for part in option.parts]
    example = "+".join(f"{name}=..." for name in names)
    if not isinstance(value, Mapping):
        raise place.error(f"must be a mapping with the keys {', '.join(names)} (on the command line {example}).")
    checked: dict[str, Mapping[str, str] | str | float] = {}
    for name in value:
        if name not in names:
            raise place.error(f"has no part {name!r}{among(name, names)}")
    for part in option.parts:
        if part.name not in value:
            raise place.error(f"the key {part.name!r} is missing.")
        found = check(part, value[part.name], place.child(part.name))
        checked[part.name] = found if isinstance(found, float) else str(found)
    return checked


def _check_dimensions(value: OptionValue, place: Place) -> OptionValue:
    """Refuse what is no axis and what no toolchain takes for a name; sort, so that order means nothing."""
    if not isinstance(value, Mapping) or not value:
        raise place.error("must be a mapping of input names to axes, as in {x: {1: seq}}.")
    checked: dict[str, dict[str, str]] = {}
    for name in sorted(value):
        axes = value[name]
        where = place.child(name)
        if not isinstance(axes, Mapping) or not axes:
            raise where.error("must be a mapping of axes to names, as in {1: seq}, or a list of axes.")
        for axis, dimension in sorted(axes.items()):
            if not re.fullmatch(r"[0-9]{1,3}", axis, re.ASCII):
                raise where.error(f"{axis[:40]!r} is not an axis; axes are counted from 0.")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,60}", dimension):
                raise where.error(f"{dimension[:40]!r} cannot name a dimension; use letters, digits and _.")
            checked.setdefault(name, {})[str(int(axis))] = dimension
    return checked
