"""Rules and targets: what people write, parsed and refused with the place and the choices.

`document` reads YAML with the place of every value, `options` and `targets` check a target against what its
format declares, `rules` puts the file together. Nothing here imports a format or asks a server.
"""

from registry_export.config.places import Place
from registry_export.config.rules import (
    FACTORY_TAG,
    REVERT,
    STAGES,
    TARGETS_TAG,
    Configuration,
    Rule,
    default_configuration,
    is_artifact_uri,
    load_configuration,
    missing_rule,
    parse_configuration,
    requested_setup,
    requested_targets,
)
from registry_export.config.targets import format_named, make_target, parse_targets, variant_of

__all__ = [
    "FACTORY_TAG",
    "REVERT",
    "STAGES",
    "TARGETS_TAG",
    "Configuration",
    "Place",
    "Rule",
    "default_configuration",
    "format_named",
    "is_artifact_uri",
    "load_configuration",
    "make_target",
    "missing_rule",
    "parse_configuration",
    "parse_targets",
    "requested_setup",
    "requested_targets",
    "variant_of",
]
