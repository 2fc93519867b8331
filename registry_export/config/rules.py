"""Rules: which promotion of which model is exported to what."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.config.document import Entry, read_document
from registry_export.config.places import Place, among
from registry_export.config.targets import Formats, distinct, format_named, make_target, parse_targets, read_target
from registry_export.entities import Target, Tolerance
from registry_export.model_setup import MODEL_FACTORY, NO_SETUP, WRAPPER, ModelSetup, is_callable_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry_export.errors import ConfigurationError

TARGETS_TAG = "registry_export.targets"
"""The tag by which a person overrides a rule's targets from the UI."""

FACTORY_TAG = "registry_export.model_factory"
"""The tag by which a person names the architecture of a checkpoint that holds weights alone."""

STAGES = ("Staging", "Production")
"""The stages that can be promotions; `None` and `Archived` take a version out of use."""

_ALLOW_PICKLE, _SANDBOX = "allow_pickle", "sandbox"
_AVAILABLE, _REQUIRED = "available", "required"
_RULE_KEYS = (
    "models", "promotions", "targets", "samples", "tolerance", "on_failure", MODEL_FACTORY, WRAPPER, _ALLOW_PICKLE,
    _SANDBOX,
)  # fmt: skip
_LATER_RULE_KEYS = ("require", "gate", "on_success", "evaluate", "max_drop")
_PROMOTION_KEYS = ("stages", "aliases", "copied")
KEEP, REVERT = "keep", "revert"
_ON_FAILURE = (KEEP, REVERT)
_MANUAL = "manual"
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
        setup: How the checkpoint becomes the model to export.
    """

    models: str
    stages: tuple[str, ...]
    aliases: tuple[str, ...]
    copied: bool
    targets: tuple[Target, ...]
    samples: str | None = None
    tolerance: Tolerance | None = None
    on_failure: str = KEEP
    setup: ModelSetup = NO_SETUP

    def matches(self, model_name: str, trigger: str) -> bool:
        """Whether this promotion is the rule's.

        Args:
            model_name: The registered model.
            trigger: `stage:Staging`, `alias:champion`, `copied:model/1`; `manual` asks for the name alone.
        """
        if not fnmatchcase(model_name, self.models):
            return False
        kind, _, value = trigger.removeprefix(_RECONCILED).partition(":")
        if kind == "stage":
            return value in self.stages
        if kind == "alias":
            return any(fnmatchcase(value, pattern) for pattern in self.aliases)
        return self.copied if kind == "copied" else kind == _MANUAL


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


def default_configuration(formats: Formats) -> Configuration:
    """What holds when there is no file: every model, both stages, every alias, to ONNX.

    Raises:
        ConfigurationError: The format `onnx` is not there.
    """
    onnx = make_target(format_named(formats, "onnx", "the default rule (no configuration file was found)"), {})
    return Configuration((Rule("*", STAGES, ("*",), copied=False, targets=(onnx,)),))


def load_configuration(path: Path | None, formats: Formats) -> Configuration:
    """Read the configuration.

    Args:
        path: The file, as `Settings.config_path` found it; None gives the default.
        formats: The installed formats by name.

    Raises:
        ConfigurationError: The file cannot be read or understood; names file, line, key and choices.
    """
    if path is None:
        return default_configuration(formats)
    place = Place(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise place.error("there is no such file.") from error
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Place(str(path), line).error("is not UTF-8 text.") from error
    return parse_configuration(text, str(path), formats)


def parse_configuration(text: str, place: str, formats: Formats) -> Configuration:
    """Parse the text of a configuration file.

    Args:
        text: YAML.
        place: The file's path: it stands in refusals, and relative paths are relative to its folder.
        formats: The installed formats by name.

    Raises:
        ConfigurationError: `file:line: key: what is wrong; the choices are ...`.
    """
    document = read_document(text, place, "write at least one rule, or remove the file to use the default.")
    top = document.mapping(("rules",))
    if "rules" not in top:
        raise document.place.error("the key 'rules' is missing.")
    entries = top["rules"].items("rules")
    if not entries:
        raise top["rules"].place.error("holds no rule; remove the file to use the default.")
    return Configuration(tuple(_read_rule(entry, Path(place).parent, formats) for entry in entries), place)


def _read_rule(entry: Entry, folder: Path, formats: Formats) -> Rule:
    fields = entry.mapping(_RULE_KEYS, _LATER_RULE_KEYS)
    for key in ("models", "targets"):
        if key not in fields:
            raise entry.place.error(f"the key {key!r} is missing.")
    stages, aliases, copied = _read_promotions(fields.get("promotions"))
    samples, tolerance, on_failure = (fields.get(key) for key in ("samples", "tolerance", "on_failure"))
    return Rule(
        models=fields["models"].text("a model name or a pattern"),
        stages=stages,
        aliases=aliases,
        copied=copied,
        targets=_read_targets(fields["targets"], formats),
        samples=_read_samples(samples, folder) if samples else None,
        tolerance=_read_tolerance(tolerance) if tolerance else None,
        on_failure=_one_of(on_failure, _ON_FAILURE) if on_failure else KEEP,
        setup=_read_setup(fields, folder),
    )


def _read_setup(fields: Mapping[str, Entry], folder: Path) -> ModelSetup:
    names = {key: _callable_name(fields[key]) for key in (MODEL_FACTORY, WRAPPER) if key in fields}
    allow_pickle = fields[_ALLOW_PICKLE].flag() if _ALLOW_PICKLE in fields else True
    sandbox = _one_of(fields[_SANDBOX], (_AVAILABLE, _REQUIRED)) if _SANDBOX in fields else _AVAILABLE
    search = (str(folder.absolute()),)
    return ModelSetup(**names, allow_pickle=allow_pickle, search=search, walls_required=sandbox == _REQUIRED)


def _callable_name(entry: Entry) -> str:
    text = entry.text("package.module:callable")
    if not is_callable_name(text):
        raise entry.place.error(f"must be written package.module:callable, not {text!r}.")
    return text


def _read_promotions(entry: Entry | None) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Read stages, aliases and copied. Without the key the default holds; inside it, what is not named is off."""
    if entry is None:
        return STAGES, ("*",), False
    fields = entry.mapping(_PROMOTION_KEYS)
    stages = [_one_of(item, STAGES) for item in fields["stages"].items("stages")] if "stages" in fields else []
    aliases = fields["aliases"].items("aliases") if "aliases" in fields else []
    copied = fields["copied"].flag() if "copied" in fields else False
    return tuple(stages), tuple(alias.text("an alias or a pattern") for alias in aliases), copied


def _read_targets(entry: Entry, formats: Formats) -> tuple[Target, ...]:
    items = entry.items("formats")
    if not items:
        raise entry.place.error("names no target.")
    return distinct([(read_target(item, formats), item.place) for item in items])


def is_artifact_uri(place: str) -> bool:
    """Whether samples lie in an artifact store (`runs:/...`, `s3://...`) and not on disk."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", place))


def _read_samples(entry: Entry, folder: Path) -> str:
    fields = entry.mapping(("path",))
    if "path" not in fields:
        raise entry.place.error("the key 'path' is missing.")
    path = fields["path"].text("a path or an artifact URI")
    if is_artifact_uri(path):
        return path
    return os.path.abspath(folder / path)  # noqa: PTH100 - Path.resolve would follow links and ask the disk


def _read_tolerance(entry: Entry) -> Tolerance:
    fields = entry.mapping(("atol", "rtol"))
    values: dict[str, float] = {}
    for name in ("atol", "rtol"):
        if name not in fields:
            raise entry.place.error(f"the key {name!r} is missing; a tolerance is both atol and rtol.")
        values[name] = fields[name].number()
        if not (math.isfinite(values[name]) and values[name] >= 0):
            raise fields[name].place.error(f"must be 0 or more and finite, not {values[name]}.")
    return Tolerance(values["atol"], values["rtol"])


def _one_of(entry: Entry, choices: tuple[str, ...]) -> str:
    value = entry.text(f"one of {', '.join(choices)}")
    if value not in choices:
        raise entry.place.error(f"cannot be {value!r}{among(value, choices)}")
    return value


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
