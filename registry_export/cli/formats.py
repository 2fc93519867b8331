"""`registry-export formats`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from registry_export.cli.completion import complete_formats
from registry_export.cli.tables import print_json, print_table
from registry_export.format import KERAS_MODEL, ONNX_MODEL, TF_FUNCTION, TORCH_MODULE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_export.format import Format, Option


@dataclass(frozen=True)
class OptionRecord:
    """An option as `formats --json` shows it."""

    name: str
    type: str
    default: object
    choices: tuple[object, ...]
    minimum: float | None
    maximum: float | None
    form: str
    help: str
    parts: tuple[OptionRecord, ...] = ()


@dataclass(frozen=True)
class FormatRecord:
    """A format as `formats --json` shows it.

    Attributes:
        is_target: Whether something can be converted into it.
        missing: Packages that are not installed, by import name.
        install: The command that installs them.
        sources: Formats that it can be made from.
    """

    name: str
    summary: str
    is_target: bool
    installed: bool
    missing: tuple[str, ...]
    install: str
    sources: tuple[str, ...]
    verified_by: str
    options: tuple[OptionRecord, ...]


@click.command(short_help="List the formats: installed, made from, verified by.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_formats)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def formats(names: tuple[str, ...], as_json: bool) -> None:
    """List every format: installed or not, what to install, made from what, verified how.

    With a NAME also its options.
    """
    from registry_export.discovery import discover_formats, format_named

    found = discover_formats()
    chosen = [format_named(found, name, "registry-export formats") for name in names] or list(found.values())
    records = [_record(format_, found) for format_ in chosen]
    families = _families(found)
    if as_json:
        print_json(records)
        return
    rows = [
        (
            record.name,
            "yes" if record.installed else f"no: {record.install or ', '.join(record.missing)}",
            ", ".join(_folded(record.sources, families)) if record.is_target else f"a source: {record.summary}",
            record.verified_by,
        )
        for record in records
    ]
    print_table(("format", "installed", "made from", "verified by"), rows)
    for family, members in families.items():
        click.echo(f"{family}: {', '.join(members)}")
    for record in records if names else ():
        _print_options(record)


_FAMILIES = {TORCH_MODULE: "PyTorch*", KERAS_MODEL: "Keras*", TF_FUNCTION: "TensorFlow*", ONNX_MODEL: "ONNX*"}
"""What the sources of one kind are called together: whatever is made from one of them is made from all."""


def _families(found: Mapping[str, Format]) -> dict[str, tuple[str, ...]]:
    families = {
        name: tuple(format_.name for format_ in found.values() if format_.kind == kind)
        for kind, name in _FAMILIES.items()
    }
    return {name: members for name, members in families.items() if len(members) > 1}


def _folded(sources: tuple[str, ...], families: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Name families in place of their members, where all of them are there."""
    whole = {name: members for name, members in families.items() if set(members) <= set(sources)}
    within = {member for members in whole.values() for member in members}
    return [*whole, *(source for source in sources if source not in within)]


def _record(format_: Format, found: Mapping[str, Format]) -> FormatRecord:
    from registry_export.discovery import install_command, missing_requirements
    from registry_export.format import options_of
    from registry_export.graph import sources_of

    missing = missing_requirements(format_.requirements)
    return FormatRecord(
        name=format_.name,
        summary=format_.summary,
        is_target=bool(format_.conversions),
        installed=not missing,
        missing=missing,
        install=install_command(format_) if missing else "",
        sources=sources_of(format_, found),
        verified_by=format_.verified_by,
        options=tuple(_option(option) for option in options_of(format_)),
    )


def _option(option: Option) -> OptionRecord:
    return OptionRecord(
        name=option.name,
        type=option.type.__name__,
        default=option.default,
        choices=option.choices,
        minimum=option.minimum,
        maximum=option.maximum,
        form=option.form,
        help=option.help,
        parts=tuple(_option(part) for part in option.parts),
    )


def _print_options(record: FormatRecord) -> None:
    click.echo(f"\n{record.name}: {record.summary}")
    if not record.options:
        click.echo("It has no options.")
        return
    rows = [(option.name, _values(option), _shown(option.default), option.help) for option in record.options]
    print_table(("option", "values", "default", "meaning"), rows)


def _values(option: OptionRecord) -> str:
    if option.parts:
        return ", ".join(f"{part.name} ({_values(part)})" for part in option.parts)
    if option.choices:
        return ", ".join(map(str, option.choices))
    if option.minimum is not None or option.maximum is not None:
        low, high = (("" if bound is None else f"{bound:g}") for bound in (option.minimum, option.maximum))
        return f"{option.type} {low}..{high}"
    return option.form or option.type


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
