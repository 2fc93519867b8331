"""The settings, formats, rules and registry of one command, and what a user's words mean by them."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from registry_export.config import (
    TARGETS_TAG,
    is_artifact_uri,
    load_configuration,
    missing_rule,
    parse_targets,
    requested_setup,
    requested_targets,
)
from registry_export.discovery import discover_formats
from registry_export.errors import ConfigurationError
from registry_export.evaluation_setup import NO_EVALUATION
from registry_export.exports import variants_named
from registry_export.manifest import Verifier
from registry_export.page import read_report
from registry_export.recorded import MANUAL, Request, VerificationRequest
from registry_export.registry import Registry
from registry_export.settings import CONFIG_NAME, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from registry_export.config import Configuration
    from registry_export.entities import Tolerance
    from registry_export.format import Format


class Access(TypedDict):
    """What it takes to fetch an export, as `exports.pull`, `exports.load` and `layouts.lay_out` are given it."""

    registry: Registry
    formats: Mapping[str, Format]
    verifier: Verifier | None


class Session:
    """The settings, formats, rules and registry of one command, each read on first need."""

    @cached_property
    def settings(self) -> Settings:
        """What the environment says."""
        return Settings.from_environment()

    @cached_property
    def formats(self) -> Mapping[str, Format]:
        """The installed formats by name."""
        return discover_formats()

    @cached_property
    def configuration(self) -> Configuration:
        """The rules."""
        return load_configuration(self.settings.config_path, self.formats)

    @cached_property
    def registry(self) -> Registry:
        """The model registry.

        Raises:
            ConfigurationError: Nothing says where it is. MLflow would start an empty one in the working folder.
        """
        if self.settings.tracking_uri is None:
            raise ConfigurationError(
                "MLFLOW_TRACKING_URI is not set.",
                remedy="Set it to the MLflow server's address, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.",
            )
        return Registry(self.settings.tracking_uri, self.settings.registry_uri)

    def access(self, key: str | PathLike[str] | None) -> Access:
        """What an export is fetched with; one of the keys must have signed it: those given, else the environment's.

        Raises:
            ConfigurationError: The keys cannot be read, or nothing says where the registry is.
        """
        path = Path(key) if key is not None else self.settings.verify_key
        verifier = Verifier.read(path) if path is not None else None
        return Access(registry=self.registry, formats=self.formats, verifier=verifier)

    def request(
        self,
        model_uri: str,
        targets: str | Sequence[str] | None,
        *,
        samples: str | PathLike[str] | None = None,
        tolerance: Tolerance | None = None,
    ) -> Request:
        """Look up what a call left open: the version, the targets, samples and tolerance.

        Raises:
            ConfigurationError: A word is not understood, or nothing says which targets.
            ModelVersionNotFoundError: There is no such version.
        """
        if tolerance is not None and not all(0 <= value < math.inf for value in (tolerance.atol, tolerance.rtol)):
            given = f"{tolerance.atol} and {tolerance.rtol}"
            raise ConfigurationError(f"atol and rtol must be finite and 0 or more, not {given}.")
        own_samples = _absolute(samples) if samples else None
        asked = _joined(targets)
        chosen = parse_targets(asked, "--target", self.formats) if asked else None
        ref = self.registry.resolve(model_uri)
        info = self.registry.version(ref)
        # Without a file the rule has only targets to give, and whoever named some need not have its format.
        is_settled = chosen is not None and self.settings.config_path is None
        rule = None if is_settled else self.configuration.rule_for(ref.name, MANUAL)
        tags = {**self.registry.model_tags(ref.name), **info.tags}
        if chosen is None:
            chosen = requested_targets(rule, tags, str(ref), self.formats)
        if chosen is None:
            raise missing_rule(self.configuration, ref.name)
        return Request(
            version=info,
            targets=chosen,
            asked=asked,
            targets_from=self._targets_from(asked, tags),
            samples=own_samples or (rule.samples if rule else None),
            tolerance=tolerance or (rule.tolerance if rule else None),
            setup=requested_setup(rule, tags, str(ref)),
            runtimes=rule.runtimes if rule else {},
            evaluation=rule.evaluation if rule else NO_EVALUATION,
        )

    def _targets_from(self, asked: str, tags: Mapping[str, str]) -> str:
        if asked:
            return "--target"
        if tags.get(TARGETS_TAG, "").strip():
            return f"the tag {TARGETS_TAG}"
        return self.configuration.source or f"the default rule, because no {CONFIG_NAME} was found"

    def verification(self, model_uri: str, targets: str | Sequence[str] | None) -> VerificationRequest:
        """Look up what is to be verified again, and with which samples and tolerance: those of the rule behind it.

        Raises:
            ConfigurationError: A word is not understood.
            ModelVersionNotFoundError: There is no such version.
        """
        asked = _joined(targets)
        variants = variants_named(asked, self.formats) if asked else ()
        ref = self.registry.resolve(model_uri)
        info = self.registry.version(ref)
        report = read_report(self.registry, ref)
        rule = self.configuration.rule_behind(ref.name, report.trigger if report is not None else "")
        tags = {**self.registry.model_tags(ref.name), **info.tags}
        return VerificationRequest(
            version=info,
            variants=variants,
            samples=rule.samples if rule else None,
            tolerance=rule.tolerance if rule else None,
            setup=requested_setup(rule, tags, str(ref)),
            evaluation=rule.evaluation if rule else NO_EVALUATION,
        )


def _joined(targets: str | Sequence[str] | None) -> str:
    """Targets as one text; empty text counts as nothing said."""
    return (targets if isinstance(targets, str) else ",".join(targets or ())).strip(", ")


def _absolute(samples: str | PathLike[str]) -> str:
    text = str(samples)
    if is_artifact_uri(text):
        return text
    if not Path(text).is_file():
        raise ConfigurationError(f"--samples: there is no file {text}.")
    return str(Path(text).absolute())
