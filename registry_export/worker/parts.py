"""What a worker works with."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry_export.config import Configuration, load_configuration
from registry_export.costs import StepCosts
from registry_export.discovery import discover_formats
from registry_export.entities import Approval, ExportReport, ModelVersionRef, Target, Tolerance
from registry_export.errors import ConfigurationError
from registry_export.evaluation_setup import EvaluationSetup
from registry_export.format import Format
from registry_export.ledger import Job, KnownExports, LearntCosts, Ledger, OutboxReader, Vouchers
from registry_export.logs import about
from registry_export.manifest import Signer
from registry_export.model_setup import ModelSetup
from registry_export.pools import Pool
from registry_export.registry import Registry
from registry_export.reporter import Reporter
from registry_export.settings import OUTBOX_URI, Settings
from registry_export.signing import signer_of
from registry_export.worker.observer import NOBODY, Observer
from registry_export.worker.webhooks import Hints

_logger = logging.getLogger(__name__)
_UNHEARD = "The rules for %s require verified exports, and gates will not hear of what is verified here."

LEASE_S = 60.0
"""How long a claim holds when its worker falls silent."""


class Exporter(Protocol):
    """What `registry_export.export.export_model_version` is to the worker."""

    def __call__(
        self,
        ref: ModelVersionRef,
        *,
        targets: tuple[Target, ...],
        trigger: str,
        registry: Registry,
        formats: Mapping[str, Format],
        pool: Pool,
        samples: str | None,
        tolerance: Tolerance | None,
        setup: ModelSetup,
        runtimes: Mapping[str, str],
        evaluation: EvaluationSetup,
        latency: bool,
        costs: StepCosts | None,
        earlier: ModelVersionRef | None,
        approval: Approval | None,
        index: KnownExports,
        signer: Signer | None,
        reporter: Reporter,
    ) -> ExportReport:
        """Export one version; raises RegistryExportError when it failed as a whole."""
        ...


class Verifier(Protocol):
    """What `registry_export.reverification.reverify_model_version` is to the worker."""

    def __call__(
        self,
        ref: ModelVersionRef,
        *,
        variants: tuple[str, ...],
        registry: Registry,
        formats: Mapping[str, Format],
        pool: Pool,
        samples: str | None,
        tolerance: Tolerance | None,
        setup: ModelSetup,
        evaluation: EvaluationSetup,
        latency: bool,
        index: KnownExports,
        costs: StepCosts | None,
        signer: Signer | None,
        reporter: Reporter,
    ) -> ExportReport:
        """Verify the stored exports of one version again; raises RegistryExportError when that cannot be done."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a worker works with.

    Attributes:
        ledger: The jobs.
        registry: The models.
        formats: The installed formats by name.
        configuration: The rules.
        pool: Runs the children.
        export: Exports one version.
        verify: Verifies the stored exports of one version again.
        outbox: The hook's end; None: the registry is reached through HTTP alone.
        vouchers: What gates are told; None: nothing, as the registry is reached through HTTP alone.
        workspace: The MLflow workspace to work in.
        latency: Whether sources and exports are timed.
        costs: What is remembered of the steps of all exports.
        trace_folder: Where a trace of every job is written; None: nowhere.
        signer: Signs exports; None: nobody does.
        lease_s: How long a claim holds when this worker falls silent.
        observer: Hears of what the worker does.
        hints: What MLflow's webhooks told of; None: nobody takes them.
    """

    ledger: Ledger
    registry: Registry
    formats: Mapping[str, Format]
    configuration: Configuration
    pool: Pool
    export: Exporter
    verify: Verifier
    outbox: OutboxReader | None = None
    vouchers: Vouchers | None = None
    workspace: str | None = None
    latency: bool = True
    costs: StepCosts | None = None
    trace_folder: Path | None = None
    signer: Signer | None = None
    lease_s: float = LEASE_S
    observer: Observer = NOBODY
    hints: Hints | None = None

    @property
    def index(self) -> KnownExports:
        """The verified exports that the ledger knows."""
        return KnownExports(self.ledger.database, self.workspace, vouchers=self.vouchers)


def worker_name() -> str:
    """Return what a worker is called in the ledger: machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def about_job(job: Job) -> AbstractContextManager[None]:
    """Give every line that is logged in the block the fields of a job."""
    version = str(job.model_version)
    return about(job=job.id, model_version=version, attempt=job.attempt, trigger=job.trigger)


def key_of(job: Job) -> str:
    """Name a job on any server: another ledger counts from 1 as well."""
    return f"{job.id}-{job.created_at.timestamp():.3f}"


def gather_parts(
    settings: Settings,
    pool: Pool,
    export: Exporter | None = None,
    ledger: Ledger | None = None,
    lease_s: float = LEASE_S,
) -> Parts:
    """Open everything that the settings name, and create the tables.

    Args:
        settings: Where things are.
        pool: Runs the children.
        export: In place of `registry_export.export.export_model_version`.
        ledger: In place of the one that the settings name.
        lease_s: How long a claim holds when this worker falls silent, in seconds.

    Raises:
        RegistryExportError: something that is needed is not named, not understood or does not answer.
    """
    if settings.tracking_uri is None:
        raise ConfigurationError(
            "MLFLOW_TRACKING_URI is not set.",
            remedy="Set it to the MLflow server's address, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.",
        )
    if export is None:
        from registry_export.export import export_model_version

        export = export_model_version
    from registry_export.reverification import reverify_model_version

    formats = discover_formats()
    configuration = load_configuration(settings.config_path, formats)
    signer = signer_of(settings, [rule.setup for rule in configuration.rules])
    ledger = ledger or Ledger(settings.ledger_uri)
    ledger.migrate()
    registry = Registry(settings.tracking_uri, settings.registry_uri)
    return Parts(
        ledger=ledger,
        registry=registry,
        formats=formats,
        configuration=configuration,
        pool=pool,
        export=export,
        verify=reverify_model_version,
        outbox=None if settings.outbox_uri is None else OutboxReader(settings.outbox_uri),
        vouchers=vouchers_for(settings, registry, configuration),
        workspace=settings.workspace,
        latency=settings.latency,
        costs=LearntCosts(ledger.database),
        trace_folder=settings.trace_folder,
        signer=signer,
        lease_s=lease_s,
    )


def vouchers_for(settings: Settings, registry: Registry, configuration: Configuration | None = None) -> Vouchers | None:
    """Open what gates are told by, and say where rules rely on gates that cannot hear of anything.

    Args:
        settings: Where things are.
        registry: Tells of versions.
        configuration: The rules; None: nobody asks them.

    Raises:
        LedgerUnavailableError: The registry's database does not answer.
    """
    require = [repr(rule.models) for rule in configuration.rules if rule.requires is not None] if configuration else []
    if settings.outbox_uri is None:
        if require:
            _logger.warning("%s %s is not set.", _UNHEARD % ", ".join(require), OUTBOX_URI)
        return None
    vouchers = Vouchers(settings.outbox_uri, registry.version, settings.workspace)
    refused = vouchers.prepare()
    if refused:
        _logger.log(logging.WARNING if require else logging.DEBUG, "%s %s", _UNHEARD % ", ".join(require), refused)
    return vouchers
