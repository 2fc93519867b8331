"""What must be verified before a version may be promoted: the part of the rules that MLflow's server reads as well.

The server knows no formats, so that the exports are named as the version's page names them, and everything else in
the file is passed over there; a worker reads the whole file, and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from registry_export.config.document import read_document
from registry_export.config.places import among
from registry_export.config.rules import STAGES

if TYPE_CHECKING:
    from registry_export.config.document import Entry

REQUIRE, GATE = "require", "gate"
OPEN, STRICT = "open", "strict"
"""What a gate does where it cannot find out whether the exports are there: let pass, or refuse."""

_KEYS = ("stages", "aliases", "targets", "approvals")


@dataclass(frozen=True)
class Requirement:
    """Which exports a version must have before it is promoted.

    Attributes:
        stages: Transitions to these stages ask for them.
        aliases: Globs; so does setting an alias that matches one.
        targets: Variants of which each must stand verified.
        approvals: Whose approval lets a version pass without them; `*`: that of everybody who may tag it.
        strict: Whether a version is refused where it cannot be found out.
    """

    stages: tuple[str, ...]
    aliases: tuple[str, ...]
    targets: tuple[str, ...]
    approvals: tuple[str, ...] = ()
    strict: bool = False

    def asks(self, promotion: str) -> bool:
        """Whether this promotion asks for them: `stage:Production`, `alias:champion`."""
        kind, _, value = promotion.partition(":")
        if kind == "stage":
            return value in self.stages
        return kind == "alias" and any(fnmatchcase(value, pattern) for pattern in self.aliases)


@dataclass(frozen=True)
class Requirements:
    """What all rules of a file require, in their order.

    Attributes:
        by_models: Globs over registered model names, each with what its rule requires.
    """

    by_models: tuple[tuple[str, Requirement], ...] = ()

    def of(self, model_name: str, promotion: str) -> Requirement | None:
        """Find what a promotion requires: the first that asks of this model counts; None: nothing."""
        return next(
            (r for models, r in self.by_models if fnmatchcase(model_name, models) and r.asks(promotion)),
            None,
        )


def read_requirements(text: str, place: str) -> Requirements:
    """Read of a configuration file what its rules require, and nothing else.

    Args:
        text: YAML.
        place: The file's path, for refusals.

    Raises:
        ConfigurationError: It is no YAML, or a requirement cannot be understood.
    """
    rules = read_document(text, place, "write at least one rule.").mapping()
    entries = rules["rules"].items("rules") if "rules" in rules else []
    found = []
    for fields in (entry.mapping() for entry in entries):
        requirement = read_requirement(fields)
        if requirement is not None and "models" in fields:
            found.append((fields["models"].text("a model name or a pattern"), requirement))
    return Requirements(tuple(found))


def read_requirement(fields: Mapping[str, Entry]) -> Requirement | None:
    """Read the keys `require` and `gate` of a rule; None where it requires nothing.

    Raises:
        ConfigurationError: Names the line, the key and the choices.
    """
    if REQUIRE not in fields:
        if GATE in fields:
            raise fields[GATE].place.error(f"says how {REQUIRE!r} is heeded, and the rule has none.")
        return None
    entry = fields[REQUIRE]
    inside = entry.mapping(_KEYS)
    stages = [item.one_of(STAGES) for item in inside["stages"].items("stages")] if "stages" in inside else []
    aliases = _texts(inside.get("aliases"), "aliases", "an alias or a pattern")
    targets = _texts(inside.get("targets"), "targets", "an export, as the version's page names it")
    if not stages and not aliases:
        raise entry.place.error("names neither stages nor aliases that ask for it.")
    if not targets:
        raise entry.place.error("names no targets.")
    return Requirement(
        stages=tuple(stages),
        aliases=aliases,
        targets=tuple(dict.fromkeys(targets)),
        approvals=_read_approvals(inside.get("approvals")),
        strict=GATE in fields and fields[GATE].one_of((OPEN, STRICT)) == STRICT,
    )


def check_requirement(entry: Entry, variants: Collection[str]) -> None:
    """Refuse an export that no rule of the file makes: the gate would never open.

    Args:
        entry: The key `require`.
        variants: What all rules make.

    Raises:
        ConfigurationError: Names the line and the choices.
    """
    for item in entry.mapping()["targets"].items("targets"):
        name = item.text()
        if name not in variants:
            raise item.place.error(f"no rule has a target whose export is called {name!r}{among(name, variants)}")


def _texts(entry: Entry | None, of: str, what: str) -> tuple[str, ...]:
    return tuple(item.text(what) for item in entry.items(of)) if entry is not None else ()


def _read_approvals(entry: Entry | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    if entry.is_list:
        return _texts(entry, "users", "a user of MLflow")
    return ("*",) if entry.flag() else ()
