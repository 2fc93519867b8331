"""Find the formats: every installed package may bring some through the entry-point group `registry_export.formats`.

Built-in formats come in through the same door. A plugin that is broken, or breaks the contract, is
left out with a warning that says whose it is and why; the others stay.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import re
import sys
from typing import TYPE_CHECKING

from registry_export.config import format_named
from registry_export.format import Format

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import Distribution, EntryPoint

__all__ = ["GROUP", "RESERVED_NAMES", "discover_formats", "format_named", "install_command", "missing_requirements"]

GROUP = "registry_export.formats"
RESERVED_NAMES = ("status", "trigger", "run_id", "error", "targets", "model_factory", "approve")
"""Tags of ours that a format of the same name would overwrite."""

_RESERVED_OPTIONS = ("required", "samples")
_OWN_PACKAGE = "registry-export"

_log = logging.getLogger(__name__)
_said: set[tuple[str, str, str]] = set()


def discover_formats(entry_points: Iterable[EntryPoint] | None = None) -> Mapping[str, Format]:
    """Load every installed format.

    Args:
        entry_points: What to load instead of the group of the installed packages.

    Returns:
        Formats by name, sorted. Of two with one name the built-in wins, then the package first in the alphabet.
    """
    return dict(_installed(tuple(sys.path)) if entry_points is None else _loaded(entry_points))


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> Mapping[str, Format]:  # noqa: ARG001 - what is installed depends on it
    """Load what is installed on a path, once: reading the packages' metadata takes far longer than a look at a dict."""
    return _loaded(importlib.metadata.entry_points(group=GROUP))


def _loaded(found: Iterable[EntryPoint]) -> Mapping[str, Format]:
    formats: dict[str, Format] = {}
    origins: dict[str, EntryPoint] = {}
    for entry_point in sorted(found, key=_precedence):
        first = origins.get(entry_point.name)
        if first is not None:
            if first.value != entry_point.value:  # an editable install can be listed twice
                _leave_out(entry_point, f"{_owner(first)} has a format of that name.")
            continue
        format_ = _load(entry_point)
        if format_ is not None:
            formats[entry_point.name] = format_
            origins[entry_point.name] = entry_point
    return dict(sorted(formats.items()))


def missing_requirements(requirements: tuple[str, ...]) -> tuple[str, ...]:
    """Return those packages that cannot be imported here, without importing any.

    Args:
        requirements: Import names, as `Format.requirements` and `Conversion.requirements` hold them.
    """
    return tuple(name for name in requirements if not _is_importable(name))


def install_command(format: Format) -> str:  # noqa: A002
    """The command that installs what a format needs; empty when it names no extra."""
    return f"pip install '{_OWN_PACKAGE}[{format.extra}]'" if format.extra else ""


def _precedence(entry_point: EntryPoint) -> tuple[str, bool, str, str]:
    owner = _owner(entry_point)
    return entry_point.name, owner != _OWN_PACKAGE, owner, entry_point.value


def _owner(entry_point: EntryPoint) -> str:
    return _name(entry_point.dist) if entry_point.dist else entry_point.value


@functools.lru_cache(maxsize=64)
def _name(package: Distribution) -> str:
    return package.name  # reads and parses all of its metadata, whose description is long


def _load(entry_point: EntryPoint) -> Format | None:
    try:
        format_ = entry_point.load()()
        objection = _objection(entry_point.name, format_)
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything at its import
        _leave_out(entry_point, f"{type(error).__name__}: {error}")
        return None
    if objection:
        _leave_out(entry_point, objection)
        return None
    loaded: Format = format_
    return loaded


def _objection(name: str, format_: object) -> str:
    """Say how a plugin breaks the contract; empty when it keeps it."""
    if not isinstance(format_, Format):
        lacking = sorted(member for member in _members() if not hasattr(format_, member))
        return f"it is not a format: it lacks {', '.join(lacking)}."
    if format_.name != name:
        return f"its entry point is called {name!r} and the format {format_.name!r}."
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return "its name must be lower case letters, digits and underscores."
    if name in RESERVED_NAMES:
        return f"{name!r} is a reserved word, as are {', '.join(word for word in RESERVED_NAMES if word != name)}."
    options = [option.name for option in format_.options]
    for option in options:
        if options.count(option) > 1 or option in _RESERVED_OPTIONS:
            return f"it declares the option {option!r} twice, or that name is reserved."
    if not format_.filename or "/" in format_.filename:
        return f"{format_.filename!r} cannot be its file's name."
    return ""


def _members() -> Iterable[str]:
    methods = (name for name in vars(Format) if not name.startswith("_"))
    return {*Format.__annotations__, *methods}


def _leave_out(entry_point: EntryPoint, reason: str) -> None:
    said = (entry_point.name, entry_point.value, reason)
    if said in _said:
        return  # a worker looks for formats several times a job
    _said.add(said)
    _log.warning("the format %r of %s is left out: %s", entry_point.name, _owner(entry_point), reason)


def _is_importable(name: str) -> bool:
    """Look for a module, and for a submodule in its package's folders: `find_spec` alone would import the package."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was put into sys.modules by hand, or blocked there
        return False
    path = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        path = f"{path}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec is not None
