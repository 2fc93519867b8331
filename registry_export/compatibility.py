"""Which runtimes take what would be made, before it is made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from registry_export.entities import Description, OptionValue, RuntimeNeed
from registry_export.errors import ConfigurationError
from registry_export.format import RUNTIMES, Format
from registry_export.graph import ExportPlan, PlannedTarget

_VERSION = re.compile(r"\d+(\.\d+)*")


def needs_of(
    format_: Format, options: Mapping[str, OptionValue], kind: str, description: Description | None = None
) -> tuple[RuntimeNeed, ...]:
    """Ask a format which runtimes take an artifact of it; nothing where it does not say.

    Args:
        format_: The artifact's.
        options: It is made with.
        kind: What it is made from.
        description: What the finished file says of itself; None: it is not made yet.
    """
    ask = getattr(format_, "needs", None)
    return () if ask is None else tuple(ask(options, kind, description))


def with_needs(plan: ExportPlan, formats: Mapping[str, Format], served: Mapping[str, str]) -> ExportPlan:
    """Add to a plan's targets which runtimes take them, and which of those that are served are too old.

    Args:
        plan: The plan.
        formats: All that are installed, by name.
        served: Runtime -> the oldest version of it that must read the exports.

    Raises:
        ConfigurationError: One of them is not known, or its version is none.
    """
    for runtime in served:
        if runtime not in RUNTIMES:
            raise ConfigurationError(f"{runtime!r} is no runtime that is known (known are {', '.join(RUNTIMES)}).")
    targets = tuple(_with_needs(target, plan, formats) for target in plan.targets)
    return replace(plan, targets=tuple(replace(t, warnings=tuple(unmet(t.needs, served))) for t in targets))


def _with_needs(target: PlannedTarget, plan: ExportPlan, formats: Mapping[str, Format]) -> PlannedTarget:
    if not target.routes:
        return target
    last = plan.steps[target.routes[0]]
    format_ = formats[last.format]
    kind = format_.conversions[last.conversion].kind
    return replace(target, needs=needs_of(format_, target.target.options, kind))


def unmet(needs: Iterable[RuntimeNeed], served: Mapping[str, str]) -> Iterator[str]:
    """Say which of the runtimes that are served cannot read an artifact.

    Args:
        needs: The artifact's.
        served: Runtime -> its oldest version in use.
    """
    for need in needs:
        version = served.get(need.runtime)
        if version is not None and need.oldest and numbers(version) < numbers(need.oldest):
            yield f"It is to be read by {need.runtime} {version}, and needs {need.text}."


def numbers(version: str) -> tuple[int, ...]:
    """Read a version's leading numbers; trailing zeros say nothing.

    Raises:
        ConfigurationError: It is none.
    """
    found = _VERSION.match(version)
    if found is None:
        raise ConfigurationError(f"{version!r} is no version.", remedy='Write numbers, as in "1.16".')
    parts = [int(part) for part in found[0].split(".")]
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return tuple(parts)
