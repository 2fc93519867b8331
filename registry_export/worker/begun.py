"""Run an export in the process of whoever asks for it, as a job that everybody sees."""

from __future__ import annotations

from collections.abc import Callable

from registry_export.entities import ExportReport
from registry_export.errors import ExportCancelledError, RegistryExportError, StaleLeaseError, full_disk
from registry_export.ledger import Heartbeat, Job, Ledger
from registry_export.pools import Pool
from registry_export.registry import Claim, Registry
from registry_export.worker.parts import LEASE_S, key_of


def run_begun_job(
    ledger: Ledger, registry: Registry, job: Job, pool: Pool, export: Callable[[], ExportReport]
) -> ExportReport:
    """Run an export as a job that `Ledger.begin` or `Ledger.claim` gave, and settle it.

    Args:
        ledger: Where the job is.
        registry: What the export writes to: nothing where the job is another worker's by then.
        job: The claimed job.
        pool: The pool that the export runs its children in; cancelled when a person cancels the job.
        export: Runs the export.

    Raises:
        RegistryExportError: What `export` raised; `ExportCancelledError` where a person cancelled the job.
    """
    try:
        with (
            Heartbeat(ledger, job, LEASE_S, pool.cancel) as heartbeat,
            registry.writing_for(Claim(key_of(job), job.attempt > 1, heartbeat.check)),
        ):
            report = export()
    except RegistryExportError as error:
        if isinstance(heartbeat.verdict, StaleLeaseError):
            raise heartbeat.verdict from error
        if isinstance(error, ExportCancelledError):
            ledger.cancelled(job)
        else:
            # Whoever asked sees the error; nobody else tries again unless asked to with `jobs retry`.
            ledger.fail(job, str(error), transient=False)
        raise
    except Exception as error:
        full = full_disk(error)
        ledger.fail(job, str(full or f"{type(error).__name__}: {error}"), transient=False)
        if full is not None:
            raise full from error
        raise
    except BaseException:
        ledger.cancelled(job)
        raise
    ledger.complete(job, report.status, report.run_id)
    return report
