"""Which warm parents a worker may start before its first job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from registry_export.config import Configuration
from registry_export.discovery import missing_requirements
from registry_export.format import Format, Toolchain
from registry_export.graph import each_once, needed_toolchains, plan_export


def wanted_toolchains(configuration: Configuration, formats: Mapping[str, Format]) -> tuple[Toolchain, ...]:
    """Return what the rules' targets need, from any source that is installed here, the rules' first targets first.

    Sources whose packages need an environment of their own are rare, and left out: they start on first need.
    """
    needed: list[Toolchain] = []
    for rule in configuration.rules:
        for source in _sources(formats):
            plan = plan_export(source, rule.targets, formats, samples=True)
            if any(target.routes for target in plan.targets):
                needed += needed_toolchains(plan, plan.targets, formats)
    return each_once(needed)


def _sources(formats: Mapping[str, Format]) -> list[Format]:
    """Return the installed sources, those first whose toolchain most of them share."""
    usable = [f for f in formats.values() if f.kind and f.toolchain.python is None]
    installed = [format_ for format_ in usable if not missing_requirements(format_.requirements)]
    shared = Counter(format_.toolchain.name for format_ in installed)
    return sorted(installed, key=lambda format_: -shared[format_.toolchain.name])
