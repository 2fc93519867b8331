"""What else goes wrong while an export runs: the store, the disk, the clocks, and people who change their minds."""

from __future__ import annotations

import time

import pytest

from registry_export.errors import ArtifactError
from registry_export.exports import pull
from registry_export.ledger import JobState
from tests.support import planted
from tests.support.nursery import may_mount
from tests.support.proxy import CUT, PASS, REFUSE, Proxy
from tests.support.site import switched
from tests.support.worker import until

HOUR_S = 3600.0


def pulled(site, ref, folder):
    return pull(ref.uri, "planted", folder, registry=site.versions.registry, formats=site.versions.formats)


# The store.


@pytest.mark.parametrize(
    ("treatment", "failing"),
    [
        (REFUSE, 3),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in [(REFUSE, 1), (CUT, 1), (REFUSE, 5), (CUT, 3), (CUT, 5)]
        ),
    ],
)
def test_a_store_that_fails_half_way_leaves_nothing_that_is_handed_out_as_whole(
    site, server, tmp_path, treatment, failing
):
    with Proxy(server.port) as proxy:
        puts = []

        def fail_from_then_on(method, path):
            if method == "PUT" and "/exports/" in path:
                puts.append(path)
                return treatment if len(puts) >= failing else PASS
            return PASS

        proxy.treat = fail_from_then_on
        ref = site.promote(f"store-{treatment}-{failing}")
        quick = {"MLFLOW_TRACKING_URI": proxy.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        with site.worker("--once", **quick) as worker:
            assert worker.wait(120) == 0, worker.log
        assert len(puts) >= failing, "it was not half way"
    assert site.job().state is JobState.FAILED, "it is tried again"
    assert site.versions.tags(ref)["status"] == "queued"
    assert "planted" not in site.versions.tags(ref), "no tag speaks of files that are not there"
    with pytest.raises(ArtifactError):
        pulled(site, ref, tmp_path / "torn")
    site.ledger.retry(site.job().id)
    with site.worker("--once") as worker:
        assert worker.wait(60) == 0, worker.log
    assert site.versions.tags(ref)["status"] == "verified"
    assert pulled(site, ref, tmp_path / "whole").is_file()
    assert list(site.runs(ref)).count("FINISHED") == 1


# The disk.


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount a small disk")
@pytest.mark.parametrize("kilobytes", [40, *(pytest.param(size, marks=pytest.mark.slow) for size in (8, 64))])
def test_a_full_disk_costs_an_attempt_and_no_target(site, kilobytes):
    ref = site.promote(f"full-{kilobytes}")
    with site.worker(parameters={"once": True}, disk_kb=kilobytes) as worker:
        worker.wait(60)
    assert "No space" in worker.log, worker.log
    assert site.versions.tags(ref)["status"] == "queued"
    if site.ledger.list():  # else it could not even begin
        assert site.job().state is JobState.FAILED, "another attempt may find space"
        site.ledger.retry(site.job().id)
    with site.worker("--once") as worker:
        assert worker.wait(60) == 0, worker.log
    assert site.versions.tags(ref)["status"] == "verified"


# The clocks.


@pytest.mark.slow
def test_workers_whose_clocks_are_two_hours_apart_keep_and_lose_their_leases_by_the_databases(site):
    ref = site.promote("clocks", "planted_late")
    lease = {"lease_s": 2.0, "poll_s": 0.1}
    behind = site.worker(parameters=lease, clock_s=-HOUR_S, log="behind.log")
    ahead = site.worker(parameters=lease, clock_s=HOUR_S, log="ahead.log")
    third = site.worker(parameters=lease, clock_s=-HOUR_S, log="third.log")
    with switched("held"), behind:
        until(lambda: site.converting(behind), lambda: behind.log)
        with ahead:
            until(lambda: "exports what is promoted" in ahead.log, lambda: ahead.log)
            time.sleep(4)
            assert "attempt" not in ahead.log, "by its own clock the lease lapsed an hour ago"
            assert site.converting(behind)
            behind.kill()
            until(lambda: site.converting(ahead), lambda: ahead.log, 30)
            assert site.job().attempt == 2
        with third:  # by its own clock the lease holds for two hours more
            until(lambda: site.converting(third), lambda: third.log, 30)
            planted.switch("held", on=False)
            until(lambda: site.job().state is JobState.DONE, lambda: third.log)
    assert (site.job().attempt, site.versions.tags(ref)["status"]) == (3, "verified")


# People.


def test_a_version_that_is_deleted_while_it_is_exported_costs_the_worker_nothing(site):
    ref = site.promote("deleted", "planted_late")
    with site.worker() as worker:
        with switched("held"):
            until(lambda: site.converting(worker), lambda: worker.log)
            site.versions.client.delete_model_version(ref.name, ref.version)
        until(lambda: site.job().state is JobState.DEAD, lambda: worker.log)
        assert str(ref) in site.job().error
        assert "RUNNING" not in site.runs(ref)
        assert worker.alive


def test_an_alias_that_moves_on_while_its_version_is_exported_leaves_both_exported_once(site):
    first = site.promote("moved", "planted_late")
    with site.worker() as worker:
        with switched("held"):
            until(lambda: site.converting(worker), lambda: worker.log)
            second = site.versions.register("moved", scale=3.0)
            site.versions.client.set_registered_model_alias("moved", "champion", second.version)
        until(lambda: [job.state for job in site.ledger.list()] == [JobState.DONE] * 2, lambda: worker.log)
    for ref in (first, second):
        assert site.versions.tags(ref)["status"] == "verified"
        assert [len(runs) for runs in site.runs(ref).values()] == [1]
