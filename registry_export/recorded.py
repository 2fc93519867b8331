"""What a person asked for, an export or a new verification: run here and now, and kept in the ledger like any job."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry_export.config import FACTORY_TAG, TARGETS_TAG
from registry_export.errors import ExportCancelledError, LedgerError, PublishError, RegistryExportError
from registry_export.evaluation_setup import NO_EVALUATION, EvaluationSetup
from registry_export.export import export_model_version
from registry_export.gate_tables import APPROVE_TAG
from registry_export.ledger import VERIFY, KnownExports, LearntCosts, Ledger
from registry_export.outbox import STATUS_TAG, TRIGGER_TAG
from registry_export.page import ERROR_TAG, RUN_TAG, TAG_PREFIX, publish_failure
from registry_export.reverification import reverify_model_version
from registry_export.signing import signer_of
from registry_export.timeline import traced
from registry_export.worker import LEASE_S, open_pool, run_begun_job, vouchers_for, worker_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from registry_export.costs import StepCosts
    from registry_export.entities import ExportReport, Target, Tolerance
    from registry_export.format import Format
    from registry_export.ledger import Job
    from registry_export.model_setup import ModelSetup
    from registry_export.pools import Pool
    from registry_export.registry import Registry, VersionInfo
    from registry_export.reporter import Reporter
    from registry_export.settings import Settings

MANUAL = "manual"
"""The trigger of such an export."""

_POLL_S = 1.0


@dataclass(frozen=True)
class Request:
    """What one call asks for, everything looked up.

    Attributes:
        version: The version that the URI meant when it was asked.
        targets: What to export.
        asked: The targets as the caller typed them; empty where a tag or a rule supplied them.
        samples: Absolute path or artifact URI; None: the input example.
        tolerance: None: the precision's default.
        setup: How the checkpoint becomes the model to export.
        targets_from: What asked for the targets: `--target`, the tag, or the file of the rules.
        runtimes: Runtime -> the oldest version of it that is to read the exports.
        evaluation: How good the source and its exports are, and what these may lose.
    """

    version: VersionInfo
    targets: tuple[Target, ...]
    asked: str
    samples: str | None
    tolerance: Tolerance | None
    setup: ModelSetup
    targets_from: str = ""
    runtimes: Mapping[str, str] = field(default_factory=dict)
    evaluation: EvaluationSetup = NO_EVALUATION


def run_recorded(
    settings: Settings,
    registry: Registry,
    formats: Mapping[str, Format],
    request: Request,
    force: bool,
    reporter: Reporter,
    scheduler: str | None = None,
) -> ExportReport:
    """Run an export as a job of the ledger; where the ledger cannot be reached, say so and run it alone.

    While another job of the same version or checkpoint runs, this one waits: both write into one folder.

    Args:
        settings: Where the ledger is, and the limits of children.
        registry: Where the version is.
        formats: The installed formats by name.
        request: What to export.
        force: Convert and verify anew even what is verified already.
        reporter: Hears of every step.
        scheduler: Address of the Dask scheduler on whose cluster the steps run; None: they run here.

    Raises:
        RegistryExportError: The export failed as a whole; `ExportCancelledError` where a person cancelled the job.
    """
    signer = signer_of(settings, [request.setup])

    def run(pool: Pool, index: KnownExports | None, costs: StepCosts | None) -> ExportReport:
        version = request.version
        trace = traced(reporter, settings.trace_folder, str(version.ref))
        with registry.keeping_places(), _tagged_as_running(registry, version), trace as heard:
            return export_model_version(
                version.ref,
                targets=request.targets,
                trigger=MANUAL,
                registry=registry,
                formats=formats,
                pool=pool,
                samples=request.samples,
                tolerance=request.tolerance,
                setup=request.setup,
                runtimes=request.runtimes,
                evaluation=request.evaluation,
                force=force,
                latency=settings.latency,
                index=index,
                costs=costs,
                signer=signer,
                reporter=heard,
            )

    return _recorded(settings, registry, _Work(request.version, MANUAL, request.asked, run), reporter, scheduler)


@dataclass(frozen=True)
class VerificationRequest:
    """What one call asks to be verified again, everything looked up.

    Attributes:
        version: The version that the URI meant when it was asked.
        variants: Which exports; none: all that are stored.
        samples: As for `Request`.
        tolerance: As for `Request`.
        setup: As for `Request`.
        evaluation: As for `Request`.
    """

    version: VersionInfo
    variants: tuple[str, ...]
    samples: str | None
    tolerance: Tolerance | None
    setup: ModelSetup
    evaluation: EvaluationSetup = NO_EVALUATION


def verify_recorded(
    settings: Settings,
    registry: Registry,
    formats: Mapping[str, Format],
    request: VerificationRequest,
    reporter: Reporter,
    scheduler: str | None = None,
) -> ExportReport:
    """Verify stored exports again, as `run_recorded` exports; arguments and errors are alike.

    The version's status stands until there is a new one.
    """
    signer = signer_of(settings, [request.setup])

    def run(pool: Pool, index: KnownExports | None, costs: StepCosts | None) -> ExportReport:
        trace = traced(reporter, settings.trace_folder, str(request.version.ref))
        with registry.keeping_places(), trace as heard:
            return reverify_model_version(
                request.version.ref,
                variants=request.variants,
                registry=registry,
                formats=formats,
                pool=pool,
                samples=request.samples,
                tolerance=request.tolerance,
                setup=request.setup,
                evaluation=request.evaluation,
                latency=settings.latency,
                index=index,
                costs=costs,
                signer=signer,
                reporter=heard,
            )

    work = _Work(request.version, VERIFY, ",".join(request.variants), run)
    return _recorded(settings, registry, work, reporter, scheduler)


@dataclass(frozen=True)
class _Work:
    """What becomes a job: of which version, why, for which targets, and what it does."""

    version: VersionInfo
    trigger: str
    targets: str
    run: Callable[[Pool, KnownExports | None, StepCosts | None], ExportReport]


def _recorded(
    settings: Settings, registry: Registry, work: _Work, reporter: Reporter, scheduler: str | None
) -> ExportReport:
    with contextlib.closing(open_pool(settings, scheduler)) as pool:
        pool.check()
        try:
            ledger = Ledger(settings.ledger_uri)
            ledger.migrate()
            job = _begin(ledger, work, settings.workspace, reporter)
        except LedgerError as error:
            reporter.note(f"Works alone, so that `jobs` will not show this. {error}")
            return work.run(pool, None, None)

        def run_when_free() -> ExportReport:
            _await_checkpoint(ledger, job, work.version, pool, reporter)
            index = KnownExports(ledger.database, settings.workspace, vouchers=vouchers_for(settings, registry))
            return work.run(pool, index, LearntCosts(ledger.database))

        reporter.note(f"This is job {job.id}.")
        return run_begun_job(ledger, registry, job, pool, run_when_free)


def _begin(ledger: Ledger, work: _Work, workspace: str | None, reporter: Reporter) -> Job:
    """Claim a job of our own, as soon as no other job of the version runs."""
    ref = work.version.ref
    waited = False
    while True:
        job = ledger.begin(ref, work.trigger, worker_name(), LEASE_S, targets=work.targets, workspace=workspace)
        if job is not None:
            return job
        if not waited:
            reporter.note(f"Another export of {ref} is running; waiting for its end.")
            waited = True
        time.sleep(_POLL_S)


def _await_checkpoint(ledger: Ledger, job: Job, version: VersionInfo, pool: Pool, reporter: Reporter) -> None:
    """Wait until no other version with the same folder of files is being exported."""
    waited = False
    while not ledger.hold(job, version.files_id):
        if not waited:
            reporter.note("Another version of the same checkpoint is being exported; waiting for its end.")
            waited = True
        if pool.cancelled.wait(_POLL_S):
            raise ExportCancelledError(f"Job {job.id} was cancelled.")


@contextlib.contextmanager
def _tagged_as_running(registry: Registry, version: VersionInfo) -> Iterator[None]:
    """Say on the version's page that an export runs; take that back where none comes to an end."""
    registry.set_tags(version.ref, {TRIGGER_TAG: MANUAL, STATUS_TAG: "running"})
    try:
        yield
    except BaseException as error:
        told = isinstance(error, RegistryExportError) and not error.transient
        if isinstance(error, ExportCancelledError) or not told:  # a final failure is on the page already
            with contextlib.suppress(RegistryExportError):
                _restore(registry, version)
        raise


def _restore(registry: Registry, version: VersionInfo) -> None:
    now = registry.version(version.ref).tags
    own = (STATUS_TAG, TRIGGER_TAG, RUN_TAG, ERROR_TAG, TARGETS_TAG, FACTORY_TAG, APPROVE_TAG)
    if any(name.startswith(TAG_PREFIX) and name not in own and name not in now for name in version.tags):
        stopped = PublishError("The export was stopped while it replaced files.", remedy="Export the version again.")
        publish_failure(registry, version.ref, MANUAL, stopped)
        return
    earlier = {name: version.tags[name] for name in (TRIGGER_TAG, STATUS_TAG) if name in version.tags}
    registry.delete_tags(version.ref, tuple(name for name in (TRIGGER_TAG, STATUS_TAG) if name not in earlier))
    registry.set_tags(version.ref, earlier)
