"""The tables of `compatibility.yaml`: which versions of a runtime read what a file says of itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_export.entities import RuntimeNeed

DATA = "compatibility.yaml"


@functools.cache
def tables() -> Mapping[str, Mapping[str, Any]]:
    """Return every table by its name, as the file has it."""
    import yaml

    read: Mapping[str, Mapping[str, Any]] = yaml.safe_load(Path(__file__).with_name(DATA).read_text("utf-8"))
    return read


def oldest(table: str, value: int) -> str:
    """Return the oldest version of a table's runtime that reads a value; empty where the table ends before it."""
    return str(tables()[table]["oldest"].get(value, ""))


def need(runtime: str, value: int, *, table: str = "", what: str = "") -> RuntimeNeed:
    """Say which versions of a runtime read a value.

    Args:
        runtime: As rules name it.
        value: What stands in the file.
        table: The table to look in; empty: the runtime's own.
        what: What the value is called; empty: as the table says.
    """
    held = tables()[table or runtime]
    first = oldest(table or runtime, value)
    said = f"{what or held['reads']} {value}"
    if first:
        return RuntimeNeed(runtime, f"{held['name']} {first} or newer ({said})", first)
    newest = max(held["oldest"])
    beyond = f"newer than what the table of {held['name']} knows ({newest})" if value > newest else "not in the table"
    return RuntimeNeed(runtime, f"{held['name']}: {said} is {beyond}")


def installed_version(package: str) -> str:
    """Return the version of a package that is installed here; empty where none is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
