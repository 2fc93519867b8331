"""Rules: which promotion of which model is exported to what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from registry_export.entities import Target, Tolerance
from registry_export.evaluation_setup import NO_EVALUATION, EvaluationSetup
from registry_export.model_setup import NO_SETUP, ModelSetup

if TYPE_CHECKING:
    from registry_export.config.gates import Requirement

STAGES = ("Staging", "Production")
"""The stages that can be promotions; `None` and `Archived` take a version out of use."""

KEEP, REVERT = "keep", "revert"
"""What a rule may do about a promotion whose export failed or does not match."""

_MANUAL, _STAGE, _ALIAS = "manual", "stage", "alias"
_RECONCILED = "reconciled:"


@dataclass(frozen=True)
class Rule:
    """What to do about the promotions of some models.

    Attributes:
        models: Glob over registered model names.
        stages: Transitions to these stages are promotions.
        aliases: Globs; setting an alias that matches one is a promotion.
        copied: Whether a version copied from another registered model is a promotion.
        targets: What to export.
        samples: Inputs to verify with: an absolute path or an artifact URI.
        tolerance: Allowed differences; None leaves the default of each precision.
        on_failure: What to do about a promotion whose export failed or does not match: `keep` it, or `revert` it.
        verified_alias: The alias that a version gets when all that the rule demands of it is verified, with `{alias}`
            or `{stage}` for what it was promoted to; empty: none.
        requires: What must be verified before a promotion; it holds for promotions that are not the rule's, too.
        setup: How the checkpoint becomes the model to export.
        runtimes: Runtime -> the oldest version of it that is to read the exports; what it cannot read is warned of.
        evaluation: How good the model and its exports are, and what these may lose.
    """

    models: str
    stages: tuple[str, ...]
    aliases: tuple[str, ...]
    copied: bool
    targets: tuple[Target, ...]
    samples: str | None = None
    tolerance: Tolerance | None = None
    on_failure: str = KEEP
    verified_alias: str = ""
    requires: Requirement | None = None
    setup: ModelSetup = NO_SETUP
    runtimes: Mapping[str, str] = field(default_factory=dict)
    evaluation: EvaluationSetup = NO_EVALUATION

    def matches(self, model_name: str, trigger: str) -> bool:
        """Whether this promotion is the rule's.

        Args:
            model_name: The registered model.
            trigger: `stage:Staging`, `alias:champion`, `copied:model/1`; `manual` asks for the name alone.
        """
        if not fnmatchcase(model_name, self.models):
            return False
        kind, _, value = trigger.removeprefix(_RECONCILED).partition(":")
        if kind == _STAGE:
            return value in self.stages
        if kind == _ALIAS:
            return any(fnmatchcase(value, pattern) for pattern in self.aliases)
        return self.copied if kind == "copied" else kind == _MANUAL

    def verified_alias_for(self, trigger: str) -> str:
        """Name the alias that a version gets which is verified after this promotion; empty: none.

        Args:
            trigger: As for `matches`; a pattern with `{alias}` speaks of no stage, and one with `{stage}` of no alias.
        """
        kind, _, value = trigger.removeprefix(_RECONCILED).partition(":")
        if kind not in (_ALIAS, _STAGE) or f"{{{_STAGE if kind == _ALIAS else _ALIAS}}}" in self.verified_alias:
            return ""
        return self.verified_alias.replace(f"{{{kind}}}", value.lower() if kind == _STAGE else value)


@dataclass(frozen=True)
class Configuration:
    """All rules, in the order in which they are asked.

    Attributes:
        rules: The first one that matches wins.
        source: The file they were read from; empty for the built-in default.
    """

    rules: tuple[Rule, ...]
    source: str = ""

    def rule_for(self, model_name: str, trigger: str) -> Rule | None:
        """Find the rule for a promotion; None when it is nobody's business.

        Args:
            model_name: The registered model.
            trigger: As for `Rule.matches`.
        """
        return next((rule for rule in self.rules if rule.matches(model_name, trigger)), None)

    def rule_behind(self, model_name: str, trigger: str) -> Rule | None:
        """Find the rule that an export was made by: that of its trigger, else the first one for its model.

        Args:
            model_name: The registered model.
            trigger: What the export's report says; empty where it says nothing.
        """
        return self.rule_for(model_name, trigger) or self.rule_for(model_name, _MANUAL)


def is_artifact_uri(place: str) -> bool:
    """Whether samples lie in an artifact store (`runs:/...`, `s3://...`) and not on disk."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", place))
