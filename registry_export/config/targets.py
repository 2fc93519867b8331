"""Targets: what a person asks for, checked against what the formats declare.

Two notations lead to the same `Target`. In YAML: `onnx` or `onnx: {opset_version: 17}`. On the command
line and in the tag `registry_export.targets`: `onnx, onnx:opset_version=17:optimize=false`, several
options separated by further colons; `dynamic_dimensions` is written there `x.1=seq+mask.1=seq`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from registry_export.config.options import FLAGS, check, from_entry, from_text, word
from registry_export.config.places import Place, among
from registry_export.entities import OptionValue, Target
from registry_export.format import PRUNING, Format, Option, options_of

if TYPE_CHECKING:
    from registry_export.config.document import Entry

Formats = Mapping[str, Format]

LATER_OPTIONS = ("precision", "quantization")
"""Options that are documented for formats in general; refused with that word where a format has them not yet."""

_REQUIRED = "required"
_COMMON = (PRUNING.name,)
_PRECISION, _QUANTIZATION = "precision", "quantization"
_VARIANT_LENGTH = 100
"""MLflow allows 250 characters in a tag's key; `registry_export.` and metric names need some of them."""


def format_named(formats: Formats, name: str, place: str = "") -> Format:
    """Look a format up.

    Raises:
        ConfigurationError: There is none of that name; names the choices and the closest one.
    """
    return _format_at(formats, name, Place(place), sorted(formats))


def variant_of(format: Format, options: Mapping[str, OptionValue]) -> str:  # noqa: A002
    """Name a target: the format, and the short form of each option that is not its default.

    Only characters that MLflow allows in tag keys, metric names and artifact paths occur. A name too
    long for them is cut and ends in a digest of the whole.

    Args:
        format: The format.
        options: Option values by name; those that are absent have their defaults.
    """
    parts = [format.name]
    for option in options_of(format):
        value = options.get(option.name, option.default)
        if value != option.default:
            parts.append(re.sub(r"[^A-Za-z0-9_.-]", "_", option.short.format(value=_short(option, value))))
    variant = "-".join(parts)
    if len(variant) <= _VARIANT_LENGTH:
        return variant
    digest = hashlib.sha256(variant.encode()).hexdigest()[:8]
    return f"{variant[: _VARIANT_LENGTH - 9]}-{digest}"


def make_target(
    format: Format,  # noqa: A002
    options: Mapping[str, OptionValue],
    *,
    required: bool = True,
    place: Place | None = None,
) -> Target:
    """Build a target: check the options that are given, fill in the others.

    Args:
        format: The requested format.
        options: Option values by name.
        required: Whether its verdict counts in the version's status.
        place: Where it was asked for.

    Raises:
        ConfigurationError: An option is unknown or its value is not allowed; names the choices.
    """
    where = place or Place(format.name)
    given = {
        name: check(_option_at(format, name, where.child(name)), value, where.child(name))
        for name, value in options.items()
    }
    filled = {option.name: option.default for option in format.options} | given
    filled = {name: value for name, value in filled.items() if value is not None or name not in _COMMON}
    if given.get(_QUANTIZATION) is not None and filled.get(_PRECISION) != "int8":
        raise where.child(_QUANTIZATION).error("says how int8 is reached: it needs precision=int8 beside it.")
    return Target(format.name, filled, variant_of(format, filled), required)


def parse_targets(text: str, place: str, formats: Formats) -> tuple[Target, ...]:
    """Parse the notation of the command line and of the tag.

    Args:
        text: `onnx, onnx:opset_version=17, tflite:required=false`.
        place: What refusals call it.
        formats: The installed formats by name.

    Raises:
        ConfigurationError: Names the target, the option and the choices.
    """
    where = Place(place)
    parts = [part.strip() for part in text.split(",")]
    targets = [(_parse_one(part, where, formats), where) for part in parts if part]
    if not targets:
        raise where.error(f"names no target{among('', _targetable(formats))}")
    return distinct(targets)


def read_target(entry: Entry, formats: Formats) -> Target:
    """Read one item of a rule's `targets`: a name, or a name with a mapping of options.

    Raises:
        ConfigurationError: Names the line, the key and the choices.
    """
    if entry.is_scalar:
        return _parse_one(entry.text("a format"), entry.place, formats)
    entries = entry.mapping()
    if len(entries) != 1:
        found = ", ".join(entries) or "nothing"
        raise entry.place.error(
            f"must be one format with its options inside, as in `onnx: {{opset_version: 17}}`, not the keys {found}."
        )
    name, value = next(iter(entries.items()))
    chosen = _format_at(formats, name, value.place, _targetable(formats))
    required = True
    options: dict[str, OptionValue] = {}
    for key, given in {} if value.is_null else value.mapping().items():
        if key == _REQUIRED:
            required = given.flag()
        else:
            option = _option_at(chosen, key, given.place)
            options[key] = check(option, from_entry(option, given), given.place)
    return make_target(chosen, options, required=required, place=value.place)


def distinct(targets: Iterable[tuple[Target, Place]]) -> tuple[Target, ...]:
    """Refuse two targets with the same variant: one would overwrite the other.

    Raises:
        ConfigurationError: Names both places.
    """
    seen: dict[str, Place] = {}
    kept: list[Target] = []
    for target, place in targets:
        if target.variant in seen:
            first = seen[target.variant]
            where = f", first in line {first.line}" if first.line else ""
            raise place.error(f"the target {target.variant!r} stands twice{where}; one would overwrite the other.")
        seen[target.variant] = place
        kept.append(target)
    return tuple(kept)


def _parse_one(text: str, place: Place, formats: Formats) -> Target:
    name, *pairs = (part.strip() for part in text.split(":"))
    chosen = _format_at(formats, name, place, _targetable(formats))
    where = place.child(name)
    required = True
    options: dict[str, OptionValue] = {}
    seen: set[str] = set()
    for pair in _rejoined(pairs, chosen):
        key, _, value = (part.strip() for part in pair.partition("="))
        option_place = where.child(key)
        if not key or not value:
            raise where.error(f"an option is written name=value, not {pair!r}.")
        if key in seen:
            raise option_place.error("the option stands twice.")
        seen.add(key)
        if key == _REQUIRED:
            required = _flag(value, option_place)
        else:
            options[key] = from_text(_option_at(chosen, key, option_place), value, option_place)
    return make_target(chosen, options, required=required, place=where)


def _rejoined(pairs: list[str], format_: Format) -> list[str]:
    """Put a value back together that holds a colon itself, as `package.module:NAME` does."""
    free_text = {option.name for option in options_of(format_) if option.type is str and not option.choices}
    forgotten = {*(option.name for option in options_of(format_)), _REQUIRED}  # an option that lacks its value
    joined: list[str] = []
    for pair in pairs:
        is_rest = "=" not in pair and pair not in forgotten
        if joined and is_rest and joined[-1].partition("=")[0].strip() in free_text:
            joined[-1] += f":{pair}"
        else:
            joined.append(pair)
    return joined


def _flag(text: str, place: Place) -> bool:
    flag = FLAGS.get(text.lower())
    if flag is None:
        raise place.error(f"must be true or false, not {text!r}.")
    return flag


def _targetable(formats: Formats) -> list[str]:
    return sorted(name for name, format_ in formats.items() if format_.conversions)


def _format_at(formats: Formats, name: str, place: Place, choices: list[str]) -> Format:
    if name not in formats:
        raise place.error(f"unknown format {name!r}{among(name, choices)}")
    if name not in choices:
        raise place.error(f"{name!r} can be exported from, not to{among('', choices)}")
    return formats[name]


def _option_at(format_: Format, name: str, place: Place) -> Option:
    names = [*(option.name for option in options_of(format_)), _REQUIRED]
    for option in options_of(format_):
        if option.name == name:
            return option
    if name in LATER_OPTIONS:
        raise place.error(f"{name!r} is not available for {format_.name} in this version{among('', names)}")
    raise place.error(f"{format_.name} has no option {name!r}{among(name, names)}")


def _short(option: Option, value: OptionValue) -> str:
    if option.parts and isinstance(value, Mapping):  # a share stands as a percentage
        return "".join(f"{100 * part:g}" if isinstance(part, float) else str(part) for part in value.values())
    if isinstance(value, Mapping):
        return "-".join(f"{name}_{axis}" for name, axes in value.items() if isinstance(axes, Mapping) for axis in axes)
    return word(value)
