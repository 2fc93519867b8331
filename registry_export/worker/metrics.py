"""What a worker counts and measures, for Prometheus. Imported only where somebody wants it.

Labels have few values: states, formats, steps, toolchains. Models and versions are in the log.
"""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import time
from collections.abc import Collection, Iterator, Mapping

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry_export.entities import ExportReport, Status
from registry_export.errors import LedgerError
from registry_export.format import Format
from registry_export.ledger import SETTLED, Census, Count, Job, JobState
from registry_export.pools import Pool
from registry_export.reporter import ChildRun, Reporter
from registry_export.worker.observer import Observer

_PREFIX = "registry_export"
_STEP_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_DELAY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_KINDS = ("stage", "alias", "copied", "manual", "reconciled")
_OTHER = "other"

_CENSUS_S = 10.0
_CENSUS_SHARE = 100.0
"""A count that took long is kept for so many times as long: counting costs at most a hundredth of the database."""


class Metrics(Observer):
    """Hears of everything and counts it in a registry of its own.

    Args:
        formats: The installed formats: what the label `format` may say.
        pool: Has the warm parents.
        census: Counts the ledger's jobs.

    Attributes:
        registry: What is to be shown.
    """

    def __init__(self, formats: Collection[str] | Mapping[str, Format], pool: Pool, census: Census) -> None:
        self.registry = CollectorRegistry()
        self._formats = frozenset(formats)
        self._turned_at = time.monotonic()
        _build(self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Jobs(census))
        self.registry.register(_Children(pool))
        self._promotions = self._counter("promotions", "Promotions that were settled", "trigger")
        self._exports = self._counter("exports", "Exports that ended, by their verdict", "status")
        self._verifications = self._counter("verifications", "Verifications of stored exports that ended", "status")
        self._attempts = self._counter("attempts", "Attempts that ended, by what became of the job", "outcome")
        self._targets = self._counter("targets", "Targets that were asked for and have a verdict", "format", "status")
        self._deliveries = self._counter("webhook_deliveries", "Deliveries of MLflow's webhooks", "outcome")
        self._hits = self._counter("cache_hits", "Targets that were verified before and not made again", "format")
        self._steps = self._histogram("step_duration", "Steps, without their wait in the queue", _STEP_BUCKETS, True)
        self._delay = self._histogram("queue_delay", "From the promotion to its first claim", _DELAY_BUCKETS)
        self._busy = Gauge(f"{_PREFIX}_busy", "Whether this worker runs a job", registry=self.registry)
        self._turn = Gauge(
            f"{_PREFIX}_last_turn_timestamp_seconds", "When the worker last turned round", registry=self.registry
        )
        self._reached = Gauge(
            f"{_PREFIX}_last_success_timestamp_seconds", "When each last answered", ("part",), registry=self.registry
        )
        self.turned()

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], by_step: bool = False) -> Histogram:
        labels = ("step", "format") if by_step else ()
        return Histogram(f"{_PREFIX}_{name}_seconds", what, labels, buckets=buckets, registry=self.registry)

    @property
    def silent_s(self) -> float:
        """How long ago the worker turned round last, in seconds."""
        return time.monotonic() - self._turned_at

    def turned(self) -> None:
        """Note that the worker lives."""
        self._turned_at = time.monotonic()
        self._turn.set_to_current_time()

    def reached(self, part: str) -> None:
        """Note that something has answered."""
        self._reached.labels(part).set_to_current_time()

    def claimed(self, job: Job) -> None:
        """Measure how long the job has waited, the first time."""
        self._busy.set(1)
        if job.first_claim and not job.verifies:
            self._delay.observe(max(0.0, (job.updated_at - job.created_at).total_seconds()))

    def exported(self, report: ExportReport, variants: Collection[str]) -> None:
        """Count the targets."""
        for target in report.targets:
            if target.variant in variants:
                self._targets.labels(self._format(target.format), target.status).inc()
                if target.reused:
                    self._hits.labels(self._format(target.format)).inc()

    def left(self, job: Job, state: JobState | None) -> None:
        """Count the attempt, and the job where that settled it."""
        self._busy.set(0)
        self._attempts.labels("lost" if state is None else state).inc()
        if state not in SETTLED:
            return
        kind = job.trigger.partition(":")[0]
        if not job.verifies:
            self._promotions.labels(kind if kind in _KINDS else _OTHER).inc()
        if state in (JobState.DONE, JobState.DEAD):
            ended = self._verifications if job.verifies else self._exports
            ended.labels(job.status or Status.FAILED).inc()

    def delivered(self, outcome: str) -> None:
        """Count it."""
        self._deliveries.labels(outcome).inc()

    def steps(self, reporter: Reporter) -> Reporter:
        """Measure the steps of an export."""
        return _Steps(self, reporter)

    def step_ended(self, step: str, variant: str, seconds: float) -> None:
        """Measure one step."""
        self._steps.labels(step, self._format(variant.partition("-")[0]) if variant else "").observe(seconds)

    def _format(self, name: str) -> str:
        return name if name in self._formats else _OTHER


class _Steps(Reporter):
    def __init__(self, metrics: Metrics, reporter: Reporter) -> None:
        self._metrics = metrics
        self._reporter = reporter

    def step_started(self, step: str, variant: str) -> None:
        self._reporter.step_started(step, variant)

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        self._metrics.step_ended(step, variant, seconds)
        self._reporter.step_finished(step, variant, outcome, seconds)

    def child_ended(self, run: ChildRun) -> None:
        self._reporter.child_ended(run)

    def note(self, text: str) -> None:
        self._reporter.note(text)


def _build(registry: CollectorRegistry) -> None:
    build = Info(f"{_PREFIX}_build", "What runs here", registry=registry)
    versions = {name.replace("-", "_"): importlib.metadata.version(name) for name in ("registry-export", "mlflow")}
    build.info(
        {"version": versions["registry_export"], "mlflow": versions["mlflow"], "python": platform.python_version()}
    )


class _Jobs(Collector):
    """The ledger's jobs, which all its workers share; left out while the ledger does not answer."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self._lock = threading.Lock()
        self._count: Count | None = None
        self._due = 0.0

    def describe(self) -> Iterator[Metric]:
        """Say the names without counting."""
        yield from self._families(None)

    def collect(self) -> Iterator[Metric]:
        """Count, or say what was counted a short while ago."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                try:
                    self._count = self._census.take()
                except LedgerError:
                    self._count = None
                ended = time.monotonic()
                self._due = ended + max(_CENSUS_S, _CENSUS_SHARE * (ended - began))
            count = self._count
        yield from self._families(count)

    def _families(self, count: Count | None) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(f"{_PREFIX}_jobs", "Jobs of the ledger by state", labels=("state",))
        oldest = GaugeMetricFamily(
            f"{_PREFIX}_oldest_waiting_job_age_seconds", "How long ago the oldest job that waits was promoted"
        )
        if count is not None:
            for state, number in count.states.items():
                jobs.add_metric((state.value,), number)
            oldest.add_metric((), count.oldest_waiting_s)
        yield from (jobs, oldest)


class _Children(Collector):
    """The warm parents that run, and the children that were killed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Look at them."""
        resident: dict[str, int] = {}
        pids = self._pool.parents()
        for name, pid in pids:
            resident[name] = resident.get(name, 0) + _resident(pid)
        yield GaugeMetricFamily(f"{_PREFIX}_warm_parents", "Warm parents that run", value=len(pids))
        memory = GaugeMetricFamily(
            f"{_PREFIX}_warm_parent_resident_bytes", "Resident memory of warm parents", labels=("toolchain",)
        )
        for name, size in resident.items():
            memory.add_metric((name,), size)
        killed = CounterMetricFamily(
            f"{_PREFIX}_children_killed", "Children that were killed at a limit", labels=("limit",)
        )
        for limit, times in self._pool.killed.items():
            killed.add_metric((limit,), times)
        yield from (memory, killed)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0
