"""What is asked for one model version: the rule that matches it, with the tags that a person set over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.config.places import Place
from registry_export.config.rules import Configuration, Rule
from registry_export.config.targets import Formats, parse_targets
from registry_export.model_setup import NO_SETUP, ModelSetup, is_callable_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_export.entities import Target
    from registry_export.errors import ConfigurationError

TARGETS_TAG = "registry_export.targets"
"""The tag by which a person overrides a rule's targets from the UI."""

FACTORY_TAG = "registry_export.model_factory"
"""The tag by which a person names the architecture of a checkpoint that holds weights alone."""


def missing_rule(configuration: Configuration, model_name: str) -> ConfigurationError:
    """The refusal of a model that no rule names, for commands that need one."""
    place = Place(configuration.source or "the default rule")
    return place.error(f"no rule's 'models' matches {model_name!r}; add one, or name the targets with --target.")


def requested_setup(rule: Rule | None, tags: Mapping[str, str], of: str) -> ModelSetup:
    """How a version's checkpoint becomes the model to export: the rule's word, with the tag's factory over it.

    Args:
        rule: The rule that matched.
        tags: The tags of the registered model with those of the version over them.
        of: Whose tags these are, for a refusal.

    Raises:
        ConfigurationError: The tag cannot be understood.
    """
    # Without a file the working folder is where its author keeps the code.
    setup = rule.setup if rule and rule.setup.search else replace(NO_SETUP, search=(str(Path.cwd()),))
    name = tags.get(FACTORY_TAG, "").strip()
    if not name:
        return setup
    if not is_callable_name(name):
        place = Place(f"the tag {FACTORY_TAG} of {of}")
        raise place.error(f"must be written package.module:callable, not {name!r}.")
    return replace(setup, model_factory=name)


def requested_targets(
    rule: Rule | None, tags: Mapping[str, str], of: str, formats: Formats
) -> tuple[Target, ...] | None:
    """What is asked for a model version: the tag's targets, else the rule's; None when neither speaks.

    Args:
        rule: The rule that matched.
        tags: The tags of the registered model with those of the version over them.
        of: Whose tags these are, for a refusal.
        formats: The installed formats by name.

    Raises:
        ConfigurationError: The tag cannot be understood.
    """
    text = tags.get(TARGETS_TAG, "").strip()
    if text:
        return parse_targets(text, f"the tag {TARGETS_TAG} of {of}", formats)
    return rule.targets if rule else None
