"""The worker: claim a job, export, settle; in between, move the outbox and find what was promoted unseen."""

from registry_export.worker.begun import run_begun_job
from registry_export.worker.loop import Worker, run_worker
from registry_export.worker.parts import LEASE_S, Exporter, Parts, vouchers_for, worker_name
from registry_export.worker.places import open_cluster, open_pool
from registry_export.worker.stopping import GRACE_S

__all__ = [
    "GRACE_S",
    "LEASE_S",
    "Exporter",
    "Parts",
    "Worker",
    "open_cluster",
    "open_pool",
    "run_begun_job",
    "run_worker",
    "vouchers_for",
    "worker_name",
]
