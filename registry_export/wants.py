"""What the rules ask for a promotion, and what of it a version has not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from registry_export.config import TARGETS_TAG, Configuration, requested_targets
from registry_export.entities import Status
from registry_export.errors import ConfigurationError
from registry_export.format import Format
from registry_export.page import TAG_PREFIX
from registry_export.registry import EXPORTS_FOLDER, Registry, VersionInfo

_TARGETS_TAG_IS_WRONG = "?"

LacksFiles = Callable[[tuple[str, ...]], tuple[str, ...]]
"""Returns those of a version's files that are not stored."""


class Wants:
    """Compares what is asked for with what is there.

    Args:
        registry: Has the models' tags.
        configuration: The rules.
        formats: The installed formats by name.
    """

    def __init__(self, registry: Registry, configuration: Configuration, formats: Mapping[str, Format]) -> None:
        self._registry = registry
        self._configuration = configuration
        self._formats = formats
        self._model_targets: Mapping[str, str] | None = None

    def begin(self) -> None:
        """Forget the models' tags: they are read once from here on."""
        self._model_targets = None

    def wants(self, model: str, promotion: str) -> bool:
        """Whether a rule wants a promotion of a registered model, written as a trigger: `stage:Staging`."""
        return self._configuration.rule_for(model, promotion) is not None

    def missing(self, info: VersionInfo, promotion: str, lacks_files: LacksFiles | None) -> frozenset[str]:
        """Return the variants that the rule asks for and the version has not.

        Args:
            info: The version.
            promotion: Written as a trigger.
            lacks_files: Looks for the files of what is verified; None: they are not looked for.
        """
        rule = self._configuration.rule_for(info.ref.name, promotion)
        try:
            tags = {TARGETS_TAG: self._targets_of_model(info.ref.name), **info.tags}
            targets = requested_targets(rule, tags, str(info.ref), self._formats) or ()
        except ConfigurationError:
            return frozenset({_TARGETS_TAG_IS_WRONG})  # the job says on the version's page what is wrong with it
        wanted = {target.variant: info.tags.get(f"{TAG_PREFIX}{target.variant}") for target in targets}
        missing = {variant for variant, line in wanted.items() if line is None}
        verified = {variant for variant, line in wanted.items() if line and line.startswith(Status.VERIFIED)}
        if lacks_files is not None and verified:
            manifests = {f"{EXPORTS_FOLDER}/{variant}/manifest.json": variant for variant in sorted(verified)}
            missing |= {manifests[path] for path in lacks_files(tuple(manifests))}
        return frozenset(missing)

    def _targets_of_model(self, name: str) -> str:
        if self._model_targets is None:
            self._model_targets = self._registry.models_with_tag(TARGETS_TAG)
        return self._model_targets.get(name, "")
