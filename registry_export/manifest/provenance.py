"""What an artifact was made from: its key, the tools, and the command that makes it again."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from registry_export.discovery import GROUP, discover_formats
from registry_export.entities import ModelVersionRef, OptionValue, Tolerance
from registry_export.format import Format, PythonEnvironment

_RECIPE_VERSION = 4
"""Raised when the same tools would make other files from the same source, or judge them otherwise."""


def target_text(format_name: str, options: Mapping[str, OptionValue], defaults: Mapping[str, OptionValue]) -> str:
    """Write a target as the command line takes it, without the options that have their defaults."""
    parts = [format_name]
    for name, value in options.items():
        if value is not None and value != defaults.get(name):
            parts.append(f"{name}={_option_text(value)}")
    return ":".join(parts)


def reproduce_command(
    ref: ModelVersionRef,
    format_name: str,
    options: Mapping[str, OptionValue],
    formats: Mapping[str, Format] | None = None,
) -> str:
    """Return the command that makes a target again, whatever has been verified before."""
    known = discover_formats() if formats is None else formats
    defaults = {option.name: option.default for option in known[format_name].options} if format_name in known else {}
    target = target_text(format_name, options, defaults)
    return f"registry-export export {shlex.quote(ref.uri)} --target {shlex.quote(target)} --force"


def export_key(
    *,
    source_sha256: str,
    code_sha256: str = "",
    allow_pickle: bool = True,
    samples_sha256: str,
    format: str,  # noqa: A002
    options: Mapping[str, OptionValue],
    routes: Sequence[Sequence[str]],
    environments: Sequence[PythonEnvironment] = (),
    tolerance: Tolerance | None,
    tools: Mapping[str, str],
) -> str:
    """Digest everything that a target's result depends on; results with one key are interchangeable.

    Args:
        source_sha256: Digest of what steps read of the downloaded model folder: checkpoint, signature, input example,
            code. No version, run or time is in it: whatever holds the same has the same key.
        code_sha256: Digest of the factory's, the wrapper's and the options' code; empty without them.
        allow_pickle: Whether the rule lets pickled code be loaded: what one refuses, another's result must not bring.
        samples_sha256: Digest of the samples in use; empty when they are drawn.
        format: The target's format.
        options: Its options, defaults filled in.
        routes: The chains of formats that would be tried, in order.
        environments: Environments of their own that the source, a step or the export's runner is run in.
        tolerance: The tolerance asked for; None for the default.
        tools: Versions of the packages in use, by name.

    Returns:
        SHA-256, in hex, of the JSON text of these with sorted keys.
    """
    content = {
        "recipe": _RECIPE_VERSION,
        "source": source_sha256,
        "setup": code_sha256,
        "pickle": allow_pickle,
        "samples": samples_sha256,
        "format": format,
        "options": options,
        "routes": [list(route) for route in routes],
        "environments": environments,
        "tolerance": tolerance,
        "tools": tools,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def tool_versions() -> Mapping[str, str]:
    """Return the versions of Python, of this package, of those that bring formats, and of whatever the formats need."""
    return dict(_tool_versions())


def versions_of(formats: Iterable[Format]) -> Mapping[str, str]:
    """Return the versions of Python, of this package, and of what loads and runs these formats."""
    return dict(_versions(requirement for format_ in formats for requirement in format_.requirements))


@functools.cache
def _tool_versions() -> tuple[tuple[str, str], ...]:
    formats = discover_formats().values()
    own = (requirement for format_ in formats for requirement in format_.requirements)
    edges = (edge for format_ in formats for edge in format_.conversions)
    plugins = {entry.dist.name for entry in importlib.metadata.entry_points(group=GROUP) if entry.dist is not None}
    return _versions((*own, *(requirement for edge in edges for requirement in edge.requirements)), plugins)


def _versions(requirements: Iterable[str], plugins: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    names = {"registry-export", "mlflow", "numpy", *plugins}
    owners = importlib.metadata.packages_distributions()
    for requirement in requirements:
        names.update(owners.get(requirement.partition(".")[0], ()))
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name.lower()] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(sorted(versions.items()))


def _option_text(value: OptionValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "+".join(text for name, part in value.items() for text in _part_texts(name, part))
    return str(value)


def _part_texts(name: str, part: Mapping[str, str] | str | float) -> list[str]:
    if isinstance(part, Mapping):
        return [f"{name}.{axis}={dimension}" for axis, dimension in part.items()]
    return [f"{name}={part}"]
