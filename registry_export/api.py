"""What the command line and Python callers share: from a model URI and the user's words to an export."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

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
from registry_export.recorded import MANUAL, Request, VerificationRequest, run_recorded, verify_recorded
from registry_export.registry import Registry
from registry_export.scratch import Scratch
from registry_export.settings import CONFIG_NAME, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from registry_export.config import Configuration
    from registry_export.entities import ExportReport, ModelVersionRef, Tolerance
    from registry_export.format import Format
    from registry_export.graph import ExportPlan
    from registry_export.layouts import Laid
    from registry_export.loaded import LoadedExport
    from registry_export.reporter import Reporter


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

    def verifier(self, key: str | PathLike[str] | None) -> Verifier | None:
        """The keys of which one must have signed what is fetched: those given, else the environment's.

        Raises:
            ConfigurationError: They cannot be read.
        """
        path = Path(key) if key is not None else self.settings.verify_key
        return Verifier.read(path) if path is not None else None

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


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        report: The published report.
        page: Address of the version's page; empty where the tracking URI serves none.
    """

    report: ExportReport
    page: str


def export(
    model_uri: str,
    targets: str | Sequence[str] | None = None,
    *,
    samples: str | PathLike[str] | None = None,
    tolerance: Tolerance | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
    scheduler: str | None = None,
) -> Exported:
    """Export one model version now, as a job of the ledger where that can be reached.

    Arguments and errors as for `registry_export.export`; with `scheduler` its steps run on that Dask cluster.
    """
    from registry_export.reporter import SILENT

    session = Session()
    request = session.request(model_uri, targets, samples=samples, tolerance=tolerance)
    report = run_recorded(
        session.settings, session.registry, session.formats, request, force, reporter or SILENT, scheduler
    )
    return Exported(report, page_of(session.registry.registry_uri or "", request.version.ref))


def verify(
    model_uri: str,
    targets: str | Sequence[str] | None = None,
    *,
    reporter: Reporter | None = None,
    scheduler: str | None = None,
) -> Exported:
    """Verify the stored exports of a version again, as a job of the ledger where that can be reached.

    Args:
        model_uri: As for `registry_export.export`.
        targets: Targets or variants; None: all that are stored.
        reporter: Hears of every step.
        scheduler: Address of the Dask scheduler on whose cluster the steps run; None: they run here.

    Raises:
        ArtifactError: There are none, or not the one that is named.
        RegistryExportError: The source cannot be run, or the registry refused.
    """
    from registry_export.reporter import SILENT

    session = Session()
    request = session.verification(model_uri, targets)
    report = verify_recorded(
        session.settings, session.registry, session.formats, request, reporter or SILENT, scheduler
    )
    return Exported(report, page_of(session.registry.registry_uri or "", request.version.ref))


def pull(
    model_uri: str, target: str, output: str | PathLike[str], *, verify_key: str | PathLike[str] | None = None
) -> Path:
    """Fetch a published export. Arguments and errors as for `registry_export.pull`."""
    from registry_export import exports

    session = Session()
    return exports.pull(
        model_uri,
        target,
        Path(output),
        registry=session.registry,
        formats=session.formats,
        verifier=session.verifier(verify_key),
    )


def load(model_uri: str, target: str, *, verify_key: str | PathLike[str] | None = None) -> LoadedExport:
    """Open a published export. Arguments and errors as for `registry_export.load`."""
    from registry_export import exports

    session = Session()
    verifier = session.verifier(verify_key)
    return exports.load(model_uri, target, registry=session.registry, formats=session.formats, verifier=verifier)


def layout(
    model_uri: str,
    target: str,
    server: str,
    output: str | PathLike[str],
    *,
    name: str = "",
    max_batch_size: int = 8,
    mount: str = "/models",
    verify_key: str | PathLike[str] | None = None,
) -> Laid:
    """Write the folder that an inference server loads. Arguments and errors as for `layouts.lay_out`."""
    from registry_export.layouts import lay_out

    session = Session()
    return lay_out(
        model_uri,
        target,
        server,
        Path(output),
        registry=session.registry,
        formats=session.formats,
        verifier=session.verifier(verify_key),
        name=name,
        max_batch_size=max_batch_size,
        mount=mount,
    )


def plan(
    model_uri: str, targets: str | Sequence[str] | None = None, *, runtimes: Mapping[str, str] | None = None
) -> ExportPlan:
    """Plan an export without running it; the checkpoint is downloaded to see what it is.

    Args:
        model_uri: As for `registry_export.export`.
        targets: As for `registry_export.export`.
        runtimes: Runtime -> the oldest version of it that must read the exports, besides those of the rule; the plan
            warns of what it cannot.

    Raises:
        RegistryExportError: The version or its checkpoint cannot be read.
    """
    from registry_export.checkpoint import read_checkpoint
    from registry_export.compatibility import with_needs
    from registry_export.graph import plan_export

    session = Session()
    request = session.request(model_uri, targets)
    with Scratch() as folder:
        model = session.registry.download(request.version.ref, folder)
        checkpoint = read_checkpoint(model, session.formats, request.setup)
        samples = bool(request.samples or checkpoint.files.example)
        planned = plan_export(checkpoint.format, request.targets, session.formats, samples=samples)
        planned = with_needs(planned, session.formats, {**request.runtimes, **(runtimes or {})})
        return replace(planned, targets_from=request.targets_from)


def page_of(tracking_uri: str, ref: ModelVersionRef) -> str:
    """The version's page, without a user's name and password; empty where the tracking URI serves none."""
    if not tracking_uri.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(tracking_uri.rstrip("/"))
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return f"{server}/#/models/{quote(ref.name, safe='')}/versions/{ref.version}"


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
