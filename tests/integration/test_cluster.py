"""The steps of exports on a real Dask cluster that speaks TLS, with an S3 server between its workers and us."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid

import boto3
import dask
import distributed
import psutil
import pytest
from moto.server import ThreadedMotoServer

from registry_export.admission import Admission
from registry_export.bench import Bench, run_reference
from registry_export.checkpoint import read_checkpoint
from registry_export.cluster.link import Link
from registry_export.cluster.pool import ClusterPool
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.doctor import examine
from registry_export.entities import Status
from registry_export.errors import (
    ChildCrashedError,
    ClusterError,
    ClusterUnavailableError,
    ConfigurationError,
    ExportCancelledError,
)
from registry_export.format import Toolchain
from registry_export.graph import plan_export
from registry_export.isolation import ChildPool, Limits
from registry_export.settings import Settings
from registry_export.targets import export_targets
from registry_export.timing import time_exports
from tests.support import planted, planted_cluster
from tests.support.certificates import as_configuration, dask_tls
from tests.support.cluster import DaskCluster

BUCKET = "steps"
SECONDS = 60.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The planted formats, as pip would install them; here and for all that is started from here."""
    folder = tmp_path_factory.mktemp("installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", planted_cluster.install(folder / "here"))
        patch.syspath_prepend(str(folder / "here"))
        yield folder


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket=BUCKET)
        yield client
    server.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """What the cluster is told of its certificates, which is our own configuration too."""
    environ = dask_tls(tmp_path_factory.mktemp("certificates") / "ours")
    with dask.config.set(as_configuration(environ)):
        yield environ


@pytest.fixture(scope="module")
def cluster(installed, s3, certificates, tmp_path_factory):
    with DaskCluster(tmp_path_factory.mktemp("cluster"), certificates, "tls") as cluster:
        cluster.start_worker("first")
        cluster.start_worker("second")
        yield cluster


@pytest.fixture(scope="module")
def shared(cluster):
    with ClusterPool(cluster.address, f"s3://{BUCKET}/exports", limits=Limits(timeout_s=90)) as pool:
        yield pool


@pytest.fixture
def pool(shared):
    shared.renew()
    return shared


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster.address, set_as_default=False) as client:
        yield client


@pytest.fixture
def plain(installed):
    """No TLS, for the clusters that a test has for itself."""
    with dask.config.set({"distributed.comm.require-encryption": False}):
        yield


@pytest.fixture
def export(tmp_path):
    """Export the planted model: the middle of the spine, without a registry."""

    def export(pool, targets):
        work = tmp_path / uuid.uuid4().hex
        planted.save(work / "model")
        formats = discover_formats()
        checkpoint = read_checkpoint(work / "model", formats)
        bench = Bench(formats, pool, work, queue=Admission(pool.cores, pool.available_bytes))
        wanted = parse_targets(targets, "test", formats)
        reference = run_reference(bench, checkpoint.origin, "", "random", wanted)
        plan = plan_export(checkpoint.format, wanted, formats, samples=False)
        made = export_targets(bench, checkpoint.origin, plan, plan.targets, reference)
        return Exported(bench, checkpoint.origin, reference, made)

    return export


class Exported:
    def __init__(self, bench, source, reference, made):
        self._bench, self._source, self.reference, self._made = bench, source, reference, made
        self.results = {variant: result for variant, (result, _) in made.items()}

    @property
    def statuses(self):
        return {result.status for result in self.results.values()}

    def files(self, variant):
        return {path.name: path.read_bytes() for path in self._made[variant][1].iterdir()}

    def timed(self, variant):
        """Time the source and an export; returns both, and what is said of the export."""
        from registry_export.inference import Origin

        result, folder = self._made[variant]
        path = folder / self._bench.formats[result.format].filename
        exports = {variant: (result, Origin(result.format, str(path), result.description.interface))}
        source, results = time_exports(self._bench, self._source, self.reference, exports)
        return source, results[variant].verification.latency_ms, results[variant].notes


class Running(threading.Thread):
    """An export in a thread."""

    def __init__(self, export, *arguments):
        super().__init__(daemon=True)
        self._export, self._arguments, self.made, self.error = export, arguments, None, None
        self.start()

    def run(self):
        try:
            self.made = self._export(*self._arguments)
        except Exception as error:  # noqa: BLE001  told to the test
            self.error = error

    def ended(self, seconds=SECONDS):
        self.join(seconds)
        assert not self.is_alive()
        return self


def stored(s3) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def until(condition, seconds=SECONDS):
    """Wait for what is about to be so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return found


def rooms(cluster):
    """Where calls run, and their files are, while they run."""
    return list(cluster.folder.glob("local-*/dask-scratch-space/worker-*/registry-export-*/files/rooms/*"))


def busy(client) -> list[str]:
    """Names of the Dask workers that run a conversion."""
    names = {address: about["name"] for address, about in client.scheduler_info()["workers"].items()}
    running = client.processing().items()
    return [names[a] for a, keys in running if a in names and any("convert" in str(key) for key in keys)]


def test_a_cluster_makes_the_same_files_and_verdicts_as_one_machine(pool, export, s3):
    targets = "planted, planted_next, planted_after:fault=wrong_before, planted:fault=refuse, planted:fault=crash"
    there = export(pool, targets)
    with ChildPool(Limits(timeout_s=90)) as local:
        here = export(local, targets)
    assert set(there.results) == set(here.results)
    for variant, result in here.results.items():
        other = there.results[variant]
        assert (other.status, other.sha256, other.path) == (result.status, result.sha256, result.path)
        assert (other.error and other.error.message) == (result.error and result.error.message)
        if result.verification is not None:
            assert other.verification.metrics == result.verification.metrics
            assert other.verification.divergence == result.verification.divergence
    assert there.results["planted"].status is Status.VERIFIED
    assert there.files("planted") == here.files("planted")
    assert there.reference.sandbox == here.reference.sandbox != ""
    assert stored(s3), "nothing went through the store"
    pool.renew()
    assert not stored(s3), "what an export has sent stays in the store"


def test_a_killed_dask_worker_costs_a_retry_and_no_target(pool, export, cluster, client):
    planted.switch("held")
    running = Running(export, pool, "planted:fault=held, planted")
    try:
        name = until(lambda: rooms(cluster) and busy(client))[0]
        time.sleep(0.5)
        cluster.kill_worker(name)
    finally:
        planted.switch("held", on=False)
    made = running.ended().made
    cluster.start_worker(name)
    assert running.error is None
    assert made.statuses == {Status.VERIFIED}


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_what_nobody_waits_for_any_more_ends_on_the_dask_worker_too(pool, export, cluster, client, how):
    running = Running(export, pool, "planted:fault=hang")
    until(lambda: busy(client) and rooms(cluster))
    pool.cancel() if how == "cancelled" else pool._link.close()
    ended = running.ended(20)
    assert isinstance(ended.error, ExportCancelledError if how == "cancelled" else ClusterUnavailableError)
    until(lambda: not rooms(cluster), 20)


@pytest.mark.slow
def test_a_step_goes_where_its_resource_is_and_is_unverified_where_nobody_has_it(pool, export, cluster, installed):
    alone = export(pool, "planted_accelerated:fault=elsewhere")
    assert alone.statuses == {Status.UNVERIFIED}
    assert "no accelerator of generation 9" in alone.results["planted_accelerated-elsewhere"].verification.reason
    path = planted_cluster.install(installed / "there")
    (installed / "there" / "accelerator").touch()
    cluster.start_worker("fast", resources="memory=4e9 accelerator=1", environ={"PYTHONPATH": path})
    until(lambda: "fast" in [worker.name for worker in pool._roster.workers()])
    found = export(pool, "planted_accelerated:fault=elsewhere, planted")
    assert found.statuses == {Status.VERIFIED}
    source, latency, notes = found.timed("planted_accelerated-elsewhere")
    cluster.kill_worker("fast")
    assert source is not None
    # Either the source was timed on the same machine, or nothing is said of the export.
    assert (latency is None) == any("times would not compare" in note for note in notes)


def test_what_is_warmed_is_started_on_every_dask_worker(pool, cluster):
    pool.warm([Toolchain("warmed", ("numpy", "wave"))])

    def started(name):
        processes = psutil.Process(cluster.pid(name)).children(recursive=True)
        return any('"wave"' in " ".join(process.cmdline()) for process in processes)

    until(lambda: started("first") and started("second"))


def test_every_dask_worker_is_seen_whatever_the_client_asks_beside_us():
    quick = {"distributed.client.scheduler-info-interval": "20ms", "distributed.comm.require-encryption": False}
    with (
        dask.config.set(quick),
        distributed.LocalCluster(n_workers=7, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        contextlib.closing(Link(cluster.scheduler_address)) as link,
    ):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            assert len(link.present()) == 7


def test_who_has_no_certificate_of_the_clusters_is_kept_out(cluster, tmp_path):
    stranger = as_configuration(dask_tls(tmp_path / "theirs"))
    with (
        dask.config.set({**stranger, "distributed.comm.timeouts.connect": "3s"}),
        ClusterPool(cluster.address, cluster.blobs) as pool,
        pytest.raises(ClusterUnavailableError, match="does not answer"),
    ):
        pool.check()


def test_nothing_is_sent_in_the_clear_where_encryption_is_demanded(cluster):
    plain = cluster.address.replace("tls", "tcp")
    with (
        ClusterPool(plain, cluster.blobs) as pool,
        pytest.raises(ConfigurationError, match="demands encryption"),
    ):
        pool.check()


def test_a_scheduler_that_is_not_there_is_named(plain, tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        ClusterPool("tcp://127.0.0.1:1", tmp_path.as_uri()) as pool,
        pytest.raises(ClusterUnavailableError, match=r"tcp://127\.0\.0\.1:1 does not answer") as told,
    ):
        pool.check()
    assert told.value.transient


@pytest.fixture
def examined(cluster, tmp_path, monkeypatch):
    """Look at the cluster as `registry-export doctor --scheduler` does, with one toolchain to start there."""
    monkeypatch.setattr("registry_export.doctor._toolchains_of", lambda _: [planted.NUMPY])

    def examined(scheduler=cluster.address, blobs=f"s3://{BUCKET}/doctor"):
        settings = Settings(None, None, f"sqlite:///{tmp_path / 'ledger.db'}", None, blobs_uri=blobs)
        return {(found.what, found.state): found.said + found.remedy for found in examine(settings, scheduler)}

    return examined


def test_doctor_looks_at_every_dask_worker_the_store_and_a_toolchain_far_away(examined, cluster, s3):
    found = examined()
    for name in ("first", "second"):
        assert "takes 1 steps at a time and offers memory 4e+09" in found[f"Dask worker {name}", "ok"]
    assert f"s3://{BUCKET}/doctor" in found["cluster", "ok"]
    assert ("sandbox", "ok") in found or ("sandbox", "note") in found
    assert ("toolchain planted", "ok") in found, found
    assert not s3.list_objects_v2(Bucket=BUCKET, Prefix="doctor").get("Contents"), "what it has tried is left there"


def test_doctor_names_what_keeps_steps_from_a_cluster_and_looks_no_further(examined):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        found = examined("tls://127.0.0.1:1")
    assert "does not answer" in found["cluster", "wrong"]
    assert not [what for what, _ in found if what.startswith(("toolchain", "sandbox"))], "each would wait a minute"
    assert "no-such-bucket" in examined(blobs="s3://no-such-bucket/doctor")["cluster", "wrong"]
    assert "REGISTRY_EXPORT_BLOBS" in examined(blobs=None)["cluster", "wrong"]


def test_a_scheduler_that_has_gone_is_not_taken_for_one_without_workers(plain):
    quick = {"distributed.comm.timeouts.connect": "2s"}
    with dask.config.set(quick), contextlib.ExitStack() as running:
        cluster = running.enter_context(
            distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
        )
        link = running.enter_context(contextlib.closing(Link(cluster.scheduler_address)))
        assert len(link.present()) == 1
        cluster.close()
        end = time.monotonic() + 4  # the client gives up meanwhile, and another one is tried
        while time.monotonic() < end:
            with pytest.raises(ClusterUnavailableError, match="does not answer") as told:
                link.present()
            assert told.value.transient
            time.sleep(0.05)


def test_a_scheduler_that_stands_still_is_not_taken_for_one_without_workers(plain, tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export.cluster.link._ANSWER_S", 1.0)
    with (
        DaskCluster(tmp_path / "still") as cluster,
        contextlib.closing(Link(cluster.address)) as link,
    ):
        assert link.present() == []
        os.kill(cluster.pid("scheduler"), signal.SIGSTOP)
        with pytest.raises(ClusterUnavailableError, match="does not answer"):
            link.present()
        os.kill(cluster.pid("scheduler"), signal.SIGCONT)
        until(lambda: link.present() == [])


@pytest.mark.slow
def test_a_step_that_takes_its_dask_workers_along_is_given_up_and_named(plain, export, tmp_path):
    with DaskCluster(tmp_path / "poisoned") as cluster:
        cluster.start_worker("first", nanny=True)
        cluster.start_worker("second", nanny=True)
        with ClusterPool(cluster.address, cluster.blobs) as pool:
            made = export(pool, "planted_poison, planted")
    poisonous = made.results["planted_poison"]
    assert poisonous.status is Status.FAILED
    assert poisonous.error.type == ChildCrashedError.__name__
    assert "4 Dask workers ended while they had it" in poisonous.error.message
    assert made.results["planted"].status is Status.VERIFIED


@pytest.mark.slow
def test_a_dask_worker_of_other_versions_is_refused_by_name(plain, installed, tmp_path, caplog):
    path = planted_cluster.install(installed / "other", version="2.0")
    with DaskCluster(tmp_path / "other") as cluster:
        cluster.start_worker("old", environ={"PYTHONPATH": path})
        with ClusterPool(cluster.address, cluster.blobs) as pool:
            until(pool._roster.workers)
            work = tmp_path / "work"
            work.mkdir()
            with pytest.raises(ClusterError, match=r"old: it has planted-cluster 2\.0 in place of 1\.0") as told:
                pool.call(planted.NUMPY, "os:getpid", {}, work)
    assert not told.value.transient
    assert "The Dask worker old gets no steps" in caplog.text


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_export_which_may_be_tried_again(plain, export, tmp_path):
    with DaskCluster(tmp_path / "lost") as cluster:
        cluster.start_worker("only")
        with ClusterPool(cluster.address, cluster.blobs) as pool:
            running = Running(export, pool, "planted:fault=hang")
            with distributed.Client(cluster.address, set_as_default=False) as client:
                until(lambda: busy(client))
            cluster.stop_scheduler()
            error = running.ended().error
    assert isinstance(error, ClusterUnavailableError)
    assert error.transient
