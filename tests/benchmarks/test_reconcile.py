"""What a sweep of the reconciler costs where nothing changed: 10,000 models with 50,000 versions."""

from __future__ import annotations

import os
import statistics
import time

import psutil
import pytest
import sqlalchemy

from registry_export.config import load_configuration
from registry_export.discovery import discover_formats
from registry_export.ledger import Ledger, OutboxReader
from registry_export.outbox import create_outbox
from registry_export.reconcile import Reconciler
from registry_export.registry import Registry
from tests.benchmarks.figures import Figure, record_all
from tests.support.large_registry import fill
from tests.support.server import MlflowServer

FIRST_AT_MOST, NEXT_AT_MOST = 30.0, 2.0
_MODELS, _VERSIONS = int(os.environ.get("RECONCILE_MODELS", "10000")), 5
_INTERVAL_S = 30.0  # the worker's
_NEXT = 5
_RULES = """
rules:
  - models: "*"
    promotions: {stages: [Production], aliases: [champion]}
    targets: [onnx]
"""


class Stopwatch:
    """Takes the time of calls, and the processor time of this process and of the server in them."""

    def __init__(self):
        self._server = [
            process
            for process in psutil.process_iter()
            if process.pid != os.getpid() and any(parent.pid == os.getpid() for parent in process.parents())
        ]
        self.wall, self.cpu = [], []

    def time(self, call):
        began, cpu = time.perf_counter(), self._spent()
        result = call()
        self.wall.append(time.perf_counter() - began)
        self.cpu.append(self._spent() - cpu)
        return result

    def _spent(self):
        return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in self._server)


@pytest.mark.parametrize(
    ("backend", "outbox"), [("sqlite", False), ("sqlite", True), ("postgresql", False)], ids=lambda value: str(value)
)
def test_a_sweep_over_what_did_not_change_is_cheap(backend, outbox, tmp_path, postgres_uri):
    rules = tmp_path / "registry-export.yaml"
    rules.write_text(_RULES)
    formats = discover_formats()
    database_uri = postgres_uri() if backend == "postgresql" else None
    with MlflowServer(tmp_path / "server", database_uri=database_uri) as server:
        fill(server, _MODELS, _VERSIONS)
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        ledger.migrate()
        reader = OutboxReader(server.database_uri) if outbox else None
        if reader is not None:
            create_outbox(sqlalchemy.create_engine(server.database_uri))
        registry = Registry(server.uri)
        registry.alias_page()  # MLflow's import and the first connection are not the sweep's
        reconciler = Reconciler(registry, ledger, load_configuration(rules, formats), formats, reader)
        watch = Stopwatch()
        for _ in range(1 + _NEXT):
            reconciler.take_turn(_INTERVAL_S)
            assert watch.time(reconciler.sweep) == 0, "nothing was missing"
        ledger.dispose()
    beside = "the outbox beside it" if outbox else "HTTP alone"
    called = f"{_MODELS:,} models with {_MODELS * _VERSIONS:,} versions, {backend}, {beside}"
    name = "" if (backend, outbox) == ("sqlite", False) else f"-{backend}{'-outbox' * outbox}"
    after = watch.wall[1:]
    spent = statistics.median(watch.cpu[1:])
    record_all(
        (
            Figure(
                name=f"reconcile-first{name}",
                what=f"the reconciler's first sweep over {called}",
                measured=watch.wall[0],
                limit=FIRST_AT_MOST,
                unit="s",
                scale=f"{watch.cpu[0]:.1f} s of processor time, the server's included",
                how="nothing is missing: one version of each model in a stage, every other with an alias",
            ),
            Figure(
                name=f"reconcile-next{name}",
                what=f"the next sweep over {called}",
                measured=statistics.median(after),
                limit=NEXT_AT_MOST,
                unit="s",
                scale=f"{spent:.1f} s of processor time; the slowest {max(after):.1f} s",
                how=f"median of {_NEXT}, {_INTERVAL_S:.0f} s apart by the clock that the rounds go by",
            ),
        )
    )
