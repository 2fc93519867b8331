"""The configuration file, read into rules; what is not understood is refused with file, line, key and choices."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from registry_export.config.document import Entry, read_document
from registry_export.config.gates import GATE, REQUIRE, check_requirement, read_requirement
from registry_export.config.places import Place
from registry_export.config.rules import KEEP, REVERT, STAGES, Configuration, Rule, is_artifact_uri
from registry_export.config.targets import Formats, distinct, format_named, make_target, read_target
from registry_export.entities import Target, Tolerance
from registry_export.evaluation_setup import EVALUATE, LABELS, MAX_DROP, SMALL_IS_BETTER, EvaluationSetup
from registry_export.format import RUNTIMES
from registry_export.model_setup import MODEL_FACTORY, WRAPPER, ModelSetup, is_callable_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALLOW_PICKLE, _SANDBOX, _RUNTIMES = "allow_pickle", "sandbox", "runtimes"
_AVAILABLE, _REQUIRED = "available", "required"
_RULE_KEYS = (
    "models", "promotions", "targets", "samples", "tolerance", "on_failure", "on_success", REQUIRE, GATE, MODEL_FACTORY,
    WRAPPER, _ALLOW_PICKLE, _SANDBOX, _RUNTIMES, EVALUATE, MAX_DROP,
)  # fmt: skip
_PROMOTION_KEYS = ("stages", "aliases", "copied")
_SAMPLES_KEYS = ("path", LABELS)
_ON_FAILURE = (KEEP, REVERT)
_SET_ALIAS = "set_alias"
_ALIAS_PATTERN = re.compile(r"[\w-]*(\{(alias|stage)\})?[\w-]*")


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
    rules = tuple(_read_rule(entry, Path(place).parent, formats) for entry in entries)
    variants = sorted({target.variant for rule in rules for target in rule.targets})
    for entry, rule in zip(entries, rules, strict=True):
        if rule.requires is not None:
            check_requirement(entry.mapping()[REQUIRE], variants)
    return Configuration(rules, place)


def _read_rule(entry: Entry, folder: Path, formats: Formats) -> Rule:
    fields = entry.mapping(_RULE_KEYS)
    for key in ("models", "targets"):
        if key not in fields:
            raise entry.place.error(f"the key {key!r} is missing.")
    stages, aliases, copied = _read_promotions(fields.get("promotions"))
    keys = ("samples", "tolerance", "on_failure", "on_success")
    samples, tolerance, on_failure, on_success = map(fields.get, keys)
    return Rule(
        models=fields["models"].text("a model name or a pattern"),
        stages=stages,
        aliases=aliases,
        copied=copied,
        targets=_read_targets(fields["targets"], formats),
        samples=_read_samples(samples, folder) if samples else None,
        tolerance=_read_tolerance(tolerance) if tolerance else None,
        on_failure=on_failure.one_of(_ON_FAILURE) if on_failure else KEEP,
        verified_alias=_read_on_success(on_success, stages, aliases) if on_success else "",
        requires=read_requirement(fields),
        setup=_read_setup(fields, folder),
        runtimes=_read_runtimes(fields[_RUNTIMES]) if _RUNTIMES in fields else {},
        evaluation=_read_evaluation(fields),
    )


def _read_setup(fields: Mapping[str, Entry], folder: Path) -> ModelSetup:
    names = {key: _callable_name(fields[key]) if key in fields else "" for key in (MODEL_FACTORY, WRAPPER)}
    allow_pickle = fields[_ALLOW_PICKLE].flag() if _ALLOW_PICKLE in fields else True
    sandbox = fields[_SANDBOX].one_of((_AVAILABLE, _REQUIRED)) if _SANDBOX in fields else _AVAILABLE
    search = (str(folder.absolute()),)
    return ModelSetup(names[MODEL_FACTORY], names[WRAPPER], allow_pickle, search, sandbox == _REQUIRED)


def _read_evaluation(fields: Mapping[str, Entry]) -> EvaluationSetup:
    drops = fields.get(MAX_DROP)
    if drops is not None and not {EVALUATE, "samples"}.intersection(fields):
        raise drops.place.error(f"needs something to measure: {EVALUATE}, or samples with labels.")
    samples = fields["samples"].mapping(_SAMPLES_KEYS) if "samples" in fields else {}
    return EvaluationSetup(
        evaluate=_callable_name(fields[EVALUATE]) if EVALUATE in fields else "",
        labels=samples[LABELS].text("the name of an array") if LABELS in samples else "",
        max_drop=_read_drops(drops) if drops is not None else {},
    )


def _read_drops(entry: Entry) -> dict[str, float]:
    drops: dict[str, float] = {}
    for name, given in entry.mapping().items():
        limit = drops[name] = given.number()
        if not math.isfinite(limit):
            raise given.place.error(f"must be finite, not {limit}.")
        if name in SMALL_IS_BETTER and limit > 0:
            raise given.place.error(f"is better small: write -{limit:g}, the most that it may rise.")
    if not drops:
        raise entry.place.error("names no metric, as in {accuracy: 0.01}.")
    return drops


def _read_runtimes(entry: Entry) -> dict[str, str]:
    """Read the oldest runtimes in use; a number is taken as it was typed, so that 1.20 is not 1.2."""
    versions = {name: value.text("a version, as 1.16") for name, value in entry.mapping(RUNTIMES).items()}
    for name, version in versions.items():
        if not version.replace(".", "").isdecimal():
            raise entry.place.child(name, entry.place.line).error(f"must be a version, as 1.16, not {version!r}.")
    return versions


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
    stages = [item.one_of(STAGES) for item in fields["stages"].items("stages")] if "stages" in fields else []
    aliases = fields["aliases"].items("aliases") if "aliases" in fields else []
    copied = fields["copied"].flag() if "copied" in fields else False
    return tuple(stages), tuple(alias.text("an alias or a pattern") for alias in aliases), copied


def _read_on_success(entry: Entry, stages: tuple[str, ...], aliases: tuple[str, ...]) -> str:
    """Read the alias that verified versions get, and refuse one that would start exports or that nothing could name."""
    from registry_export.outbox import VERIFIED_ALIAS_SUFFIX  # SQLAlchemy with it, which rules seldom need

    fields = entry.mapping((_SET_ALIAS,))
    if _SET_ALIAS not in fields:
        raise entry.place.error(f"the key {_SET_ALIAS!r} is missing.")
    place = fields[_SET_ALIAS].place
    pattern = fields[_SET_ALIAS].text("an alias")
    if not pattern.endswith(VERIFIED_ALIAS_SUFFIX):
        raise place.error(f"must end in {VERIFIED_ALIAS_SUFFIX}, by which it starts no export, not be {pattern!r}.")
    if not _ALIAS_PATTERN.fullmatch(pattern):
        choices = "{alias} or {stage}, letters, digits, _ and -"
        raise place.error(f"an alias is made of {choices}, not {pattern!r}.")
    for word, named, key in (("{alias}", aliases, "aliases"), ("{stage}", stages, "stages")):
        if word in pattern and not named:
            raise place.error(f"{word} has no meaning here: the rule's promotions name no {key}.")
    return pattern


def _read_targets(entry: Entry, formats: Formats) -> tuple[Target, ...]:
    items = entry.items("formats")
    if not items:
        raise entry.place.error("names no target.")
    return distinct([(read_target(item, formats), item.place) for item in items])


def _read_samples(entry: Entry, folder: Path) -> str:
    fields = entry.mapping(_SAMPLES_KEYS)
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
