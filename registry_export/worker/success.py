"""Give a version the rule's second alias once all that the rule demands of it is verified (`on_success`).

What counts is what stands now: a promotion that a person has taken back meanwhile moves nothing. It is done before
the job is settled, so that who dies in between does it again. The alias ends in `-verified`, and starts nothing.
"""

from __future__ import annotations

import logging

from registry_export.config import requested_targets
from registry_export.entities import ExportReport, ModelVersionRef, Status
from registry_export.errors import ConfigurationError, RegistryError, RegistryExportError
from registry_export.outbox import VERIFIED_ALIAS_SUFFIX
from registry_export.reconcile import promotions_of
from registry_export.registry import VersionInfo
from registry_export.worker.parts import Parts

_logger = logging.getLogger(__name__)


def follow(parts: Parts, report: ExportReport, model_tags: dict[str, str], *, last: bool = False) -> str:
    """Point the aliases at a version that its standing promotions have earned by now.

    The export is published by then: what goes wrong here is told, and makes no failure of it.

    Args:
        parts: What the worker works with.
        report: All that the version has, as it is published.
        model_tags: The tags of the registered model.
        last: Whether nobody does it again.

    Returns:
        What could not be done, for the job to say; empty: nothing.

    Raises:
        RegistryUnavailableError: The registry does not answer: to be done again.
    """
    try:
        return _follow(parts, report, model_tags, last)
    except RegistryError as error:
        if error.transient and not last:
            raise
        why = str(error)
    except RegistryExportError:
        raise  # the job is another worker's by now, or to be stopped
    except Exception as error:
        _logger.debug("%s", report.model_version, exc_info=True)
        why = f"{type(error).__name__}: {error}"
    return _told(report.model_version, f"No alias of `on_success` was moved. {why}")


def _follow(parts: Parts, report: ExportReport, model_tags: dict[str, str], last: bool) -> str:
    if not any(rule.verified_alias for rule in parts.configuration.rules):
        return ""
    lacking = []
    info = parts.registry.glance(report.model_version)
    for promotion in promotions_of(info):
        alias = _earned(parts, info, report, promotion, {**model_tags, **info.tags})
        if not alias or alias in info.aliases:
            continue
        try:
            parts.registry.set_alias(info.ref, alias)
        except RegistryError as error:
            if error.transient and not last:
                raise
            lacking.append(_told(info.ref, f"It is verified, and did not get the alias {alias}. {error}"))
        else:
            _logger.info(
                "%s: the alias %s points at it now; all that %s demands is verified.", *(info.ref, alias, promotion)
            )
    return " ".join(lacking)


def _told(ref: ModelVersionRef, sentence: str) -> str:
    _logger.error("%s: %s", ref, sentence)
    return sentence


def _earned(parts: Parts, info: VersionInfo, report: ExportReport, promotion: str, tags: dict[str, str]) -> str:
    """Name the alias that a promotion has earned; empty: none."""
    rule = parts.configuration.rule_for(info.ref.name, promotion)
    if rule is None or promotion.endswith(VERIFIED_ALIAS_SUFFIX):
        return ""
    alias = rule.verified_alias_for(promotion)
    if not alias:
        return ""
    try:
        targets = requested_targets(rule, tags, str(info.ref), parts.formats) or ()
    except ConfigurationError:
        return ""
    demanded = {target.variant for target in targets if target.required}
    verified = {result.variant for result in report.targets if result.status is Status.VERIFIED}
    return alias if demanded and demanded <= verified else ""
