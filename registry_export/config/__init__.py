"""Rules and targets: what people write, parsed and refused with the place and the choices.

`document` reads YAML with the place of every value, `options` and `targets` check a target against what its
format declares, `rules` is what a file comes to, `gates` what its rules require before a promotion, `reading` makes
rules of it, `requests` puts a person's tags over them. Nothing here imports a format or asks a server.
"""

from registry_export.config.gates import Requirement, Requirements, read_requirements
from registry_export.config.places import Place
from registry_export.config.reading import default_configuration, load_configuration, parse_configuration
from registry_export.config.requests import (
    FACTORY_TAG,
    TARGETS_TAG,
    missing_rule,
    requested_setup,
    requested_targets,
)
from registry_export.config.rules import REVERT, STAGES, Configuration, Rule, is_artifact_uri
from registry_export.config.targets import format_named, make_target, parse_targets, variant_of

__all__ = [
    "FACTORY_TAG",
    "REVERT",
    "STAGES",
    "TARGETS_TAG",
    "Configuration",
    "Place",
    "Requirement",
    "Requirements",
    "Rule",
    "default_configuration",
    "format_named",
    "is_artifact_uri",
    "load_configuration",
    "make_target",
    "missing_rule",
    "parse_configuration",
    "parse_targets",
    "read_requirements",
    "requested_setup",
    "requested_targets",
    "variant_of",
]
