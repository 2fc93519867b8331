"""One promotion of a planted model, and the workers that are killed, stopped and starved while they export it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from registry_export.ledger import Ledger
from tests.support import planted
from tests.support.killable import KillableWorker
from tests.support.outbox import empty_outbox_of

RULES = """
rules:
  - models: "{name}"
    promotions: {{aliases: [champion]}}
    targets: [{targets}]
"""


class Site:
    """One promotion's surroundings: rules, a ledger, and a folder for the temporary files of its workers."""

    def __init__(self, versions, nursery, server, folder, scratch):
        self.nursery, self.versions, self.folder, self.scratch = nursery, versions, folder, scratch
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.migrate()
        self.environment = {
            "MLFLOW_TRACKING_URI": server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
            "REGISTRY_EXPORT_LEDGER_URI": f"sqlite:///{folder / 'ledger.db'}",
            "REGISTRY_EXPORT_CONFIG": str(folder / "rules.yaml"),
            "REGISTRY_EXPORT_LATENCY": "off",
            "TMPDIR": str(scratch),
        }

    def promote(self, name, targets="planted"):
        self.wants(name, targets)
        ref = self.versions.register(name)
        self.versions.client.set_registered_model_alias(name, "champion", ref.version)
        return ref

    def wants(self, name, targets):
        (self.folder / "rules.yaml").write_text(RULES.format(name=name, targets=targets))

    def end_leases(self):
        """Let the minute pass for which a claim holds when its worker is silent."""
        with self.ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE registry_export_jobs SET lease_expires_at_ms = 1 WHERE lease <> ''")

    def worker(self, *arguments, log="worker.log", parameters=None, disk_kb=0, clock_s=0.0, **environment):
        """Return a worker; its disk for temporary files may be small, and its clock wrong."""
        return KillableWorker(
            self.nursery,
            self.environment | environment,
            self.folder / log,
            arguments,
            parameters,
            disk_kb=disk_kb,
            clock_s=clock_s,
        )

    def runs(self, ref):
        """Return the version's export runs by their status."""
        client = self.versions.client
        experiment = client.get_experiment_by_name(ref.name).experiment_id
        runs = client.search_runs([experiment], f"tags.`registry_export.model_version` = '{ref.version}'")
        return {
            status: [r.info.run_id for r in runs if r.info.status == status] for status in {r.info.status for r in runs}
        }

    def job(self):
        (job,) = self.ledger.list()
        return job

    def converting(self, worker, late=False):
        """Return the children of the worker that are in the folder of a conversion to `planted_late`, or to any."""
        found = []
        for child in worker.children():
            with contextlib.suppress(psutil.Error):  # it ended
                held = "start_late" in str(child.parent().cmdline())
                found += [child] if "/steps/work" in child.cwd() and (held or not late) else []
        return found


@contextlib.contextmanager
def site_in(folder: Path, versions, nursery, server) -> Iterator[Site]:
    """Make such surroundings for one test."""
    with tempfile.TemporaryDirectory(prefix="scratch-") as scratch:  # short: sockets lie in there
        site = Site(versions, nursery, server, folder, Path(scratch))
        yield site
        site.ledger.dispose()
    empty_outbox_of(server.database_uri)


@contextlib.contextmanager
def switched(name: str) -> Iterator[None]:
    """Let children see a switch of `planted` on while the block lasts."""
    planted.switch(name)
    try:
        yield
    finally:
        planted.switch(name, on=False)
