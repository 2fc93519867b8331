"""Real workers that are killed and stopped at bad moments, on a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from registry_export.ledger import JobState
from tests.support import planted
from tests.support.proxy import HANG, PASS, Proxy
from tests.support.site import switched
from tests.support.worker import ended, until


def test_the_next_worker_leaves_nothing_of_one_that_was_killed_in_mid_export(site):
    site.promote("swept", "planted: {fault: hang}")
    with site.worker() as first:
        until(lambda: site.converting(first), lambda: first.log)
        family = first.kill()
    assert len(list(site.scratch.iterdir())) >= 2, "the pool's folder and the export's"
    with site.worker("--once") as second:
        assert second.wait(60) == 0, second.log
    assert [path.name for path in site.scratch.iterdir()] == []
    assert ended(family)
    assert site.job().state is JobState.RUNNING, "it waits for the end of its lease"


@pytest.mark.slow
def test_a_worker_leaves_the_folders_of_another_that_works_beside_it(site):
    site.promote("beside", "planted: {fault: hang}")
    with site.worker() as first:
        until(lambda: site.converting(first), lambda: first.log)
        before = {path.name for path in site.scratch.iterdir()}
        with site.worker("--once", log="other.log") as second:
            assert second.wait(60) == 0, second.log
        assert {path.name for path in site.scratch.iterdir()} == before
        assert site.converting(first)


@pytest.mark.slow
def test_an_export_that_kills_its_worker_three_times_is_dead_until_a_person_retries_it(site):
    ref = site.promote("killer", "planted: {fault: hang}")
    for killed in range(3):
        with site.worker() as worker:
            until(lambda: site.converting(worker), lambda: worker.log)
            assert (site.job().state, site.job().vanished) == (JobState.RUNNING, killed)
            worker.kill()
        site.end_leases()
    with site.worker("--once") as fourth:
        assert fourth.wait(60) == 0, fourth.log
    dead = site.job()
    assert (dead.state, dead.vanished, dead.attempt) == (JobState.DEAD, 3, 3), fourth.log
    tags = site.versions.client.get_model_version(ref.name, ref.version).tags
    assert tags["registry_export.status"] == "failed"
    assert "ended without a word 3 times" in tags["registry_export.error"]
    assert f"`registry-export jobs retry {dead.id}`" in tags["registry_export.error"]
    site.wants("killer", "planted")
    subprocess.run(
        [sys.executable, "-m", "registry_export.cli", "jobs", "retry", str(dead.id)],
        env=os.environ | site.environment,
        check=True,
    )
    with site.worker("--once") as fifth:
        assert fifth.wait(60) == 0, fifth.log
    assert (site.job().state, site.job().status, site.job().vanished) == (JobState.DONE, "verified", 0), fifth.log


# Two workers on one job.


def test_a_worker_that_was_paused_past_its_lease_in_mid_publication_writes_nothing_more(site, server):
    with Proxy(server.port) as proxy:
        ref = site.promote("paused")
        paused = site.worker(MLFLOW_TRACKING_URI=proxy.uri, parameters={"lease_s": 2.0})

        def pause_at_the_run(method, path):
            if path.endswith("/runs/create"):
                paused.signal(signal.SIGSTOP)
            return PASS

        with paused:
            proxy.treat = pause_at_the_run
            until(lambda: any(path.endswith("/runs/create") for _, path, _ in proxy.seen), lambda: paused.log)
            with site.worker(parameters={"lease_s": 2.0}, log="other.log") as other:
                until(lambda: site.job().state is JobState.DONE, lambda: other.log)
            seen, tags = len(proxy.seen), site.versions.tags(ref)
            paused.signal(signal.SIGCONT)
            until(lambda: "What was exported is left to whoever has the job" in paused.log, lambda: paused.log)
        late = [(method, path) for method, path, _ in proxy.seen[seen:]]
        writes = [(m, p) for m, p in late if m != "GET" and not p.endswith(("/search", "/search-versions"))]
        assert len(writes) <= 1, writes  # that in the middle of which it was paused
    assert (site.job().state, site.job().attempt) == (JobState.DONE, 2)
    assert site.versions.tags(ref) == tags
    assert site.runs(ref) == {"FINISHED": [tags["run_id"]], "KILLED": site.runs(ref)["KILLED"]}


def test_the_run_of_an_attempt_that_was_killed_counts_no_more(site, server):
    with Proxy(server.port) as proxy:
        ref = site.promote("killed-runs")
        hung = lambda method, path: HANG if path.endswith("set-tag") and "versions" in path else PASS  # noqa: E731
        with site.worker(MLFLOW_TRACKING_URI=proxy.uri) as worker:
            until(lambda: any("/runs/create" in path for _, path, _ in proxy.seen), lambda: worker.log)
            proxy.treat = hung  # the run is FINISHED then, and no tag says so
            until(lambda: any(treatment == HANG for *_, treatment in proxy.seen), lambda: worker.log)
            worker.kill()
    assert site.versions.tags(ref)["status"] == "running"
    site.end_leases()
    with site.worker("--once") as worker:
        assert worker.wait(60) == 0, worker.log
    tags, runs = site.versions.tags(ref), site.runs(ref)
    assert tags["status"] == "verified"
    assert set(runs) == {"FINISHED", "KILLED"}
    assert runs["FINISHED"] == [tags["run_id"]]


# Somebody kills a child.


def test_a_child_that_somebody_kills_costs_its_step_and_no_target(site):
    ref = site.promote("killed-child", "planted_late")
    with site.worker() as worker:
        with switched("held"):
            for number in (signal.SIGKILL, signal.SIGTERM):
                (child,) = until(lambda: site.converting(worker, late=True), lambda: worker.log)
                child.send_signal(number)
                child.wait()
        until(lambda: site.job().state is JobState.DONE, lambda: worker.log)
    assert site.versions.tags(ref)["status"] == "verified", worker.log
    assert "begun again: It was killed with SIGKILL" in worker.log
    assert "begun again: It was killed with SIGTERM" in worker.log
    assert site.job().attempt == 1


@pytest.mark.slow
def test_a_child_that_is_killed_every_time_is_a_failure_with_its_reason(site):
    ref = site.promote("killed-always", "planted_late, planted")
    with site.worker() as worker, switched("held"):
        for _ in range(3):
            (child,) = until(lambda: site.converting(worker, late=True), lambda: worker.log)
            child.kill()
            child.wait()
        until(lambda: site.job().state is JobState.DONE, lambda: worker.log)
    tags = site.versions.tags(ref)
    assert tags["planted_late"].startswith("failed · Child: It was killed with SIGKILL.")
    assert tags["planted"].startswith("verified"), "its sibling lives"


def test_a_warm_parent_that_somebody_kills_costs_no_target_while_it_starts_and_while_it_works(site):
    ref = site.promote("killed-parent", "planted_late")
    with site.worker() as worker:
        with switched("late"):
            starting = until(lambda: worker.parents()[1:], lambda: worker.log)
            starting[0].kill()
            starting[0].wait()
            until(lambda: [p for p in worker.parents() if p not in starting][1:], lambda: worker.log)
            planted.switch("held")
        with switched("held"):
            (child,) = until(lambda: site.converting(worker, late=True), lambda: worker.log)
            child.parent().kill()
            child.wait()
        until(lambda: site.job().state is JobState.DONE, lambda: worker.log)
    assert site.versions.tags(ref)["status"] == "verified", worker.log
    assert "ended during a call" in worker.log


# Stopping.


def stopped(worker, at_most_s):
    """Stop a worker as an orchestrator does, and return what it took."""
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(at_most_s) == 0, worker.log
    return time.monotonic() - began


def assert_handed_back(site, ref, worker, family):
    job = site.job()
    assert (job.state, job.attempt) == (JobState.QUEUED, 0), "no attempt is lost"
    assert "Its worker was stopped." in job.error
    until(lambda: ended(family), lambda: str(family), 5)
    assert [path.name for path in site.scratch.iterdir()] == []


def test_a_stop_lets_an_export_end_that_ends_in_time(site):
    ref = site.promote("in-time")
    with site.worker("--grace", "60") as worker:
        until(worker.parents, lambda: worker.log)
        stopped(worker, 60)
        assert "stopping after the running export, within 60 s" in worker.log
    assert site.job().state is JobState.DONE
    assert site.versions.tags(ref)["status"] == "verified"
    assert [path.name for path in site.scratch.iterdir()] == []


def test_a_stop_hands_a_job_back_whose_step_takes_too_long(site):
    ref = site.promote("slow-step", "planted: {fault: hang}")
    with site.worker("--grace", "1") as worker:
        until(lambda: site.converting(worker), lambda: worker.log)
        family = worker.family()
        assert 1 <= stopped(worker, 20) < 10
        assert_handed_back(site, ref, worker, family)
    assert site.versions.tags(ref)["status"] == "queued"


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_parent_that_starts(site):
    ref = site.promote("slow-start", "planted_late")
    with switched("late"), site.worker("--grace", "1") as worker:
        until(lambda: len(worker.parents()) == 2, lambda: worker.log)
        family = worker.family()
        assert stopped(worker, 20) < 10
        assert_handed_back(site, ref, worker, family)
    with site.worker("--once") as worker:
        assert worker.wait(60) == 0, worker.log
    assert site.versions.tags(ref)["status"] == "verified"
    assert site.job().attempt == 1


@pytest.mark.slow
def test_a_stop_does_not_wait_for_an_upload_that_hangs(site, server):
    with Proxy(server.port) as proxy:
        proxy.treat = lambda method, path: HANG if method == "PUT" and "/exports/" in path else PASS
        ref = site.promote("slow-store")
        with site.worker("--grace", "1", MLFLOW_TRACKING_URI=proxy.uri) as worker:
            until(lambda: any(treatment == HANG for *_, treatment in proxy.seen), lambda: worker.log)
            family = worker.family()
            assert stopped(worker, 20) < 12
            assert_handed_back(site, ref, worker, family)
            assert "its job is given back, and the process left" in worker.log
    time.sleep(5)  # the job waits until nothing of the other process can be under way
    with site.worker("--once") as worker:
        assert worker.wait(60) == 0, worker.log
    assert site.versions.tags(ref)["status"] == "verified"


@pytest.mark.slow
def test_a_stop_ends_a_worker_whose_server_does_not_answer_at_all(site, server):
    with Proxy(server.port) as proxy:
        proxy.treat = lambda method, path: HANG
        with site.worker("--grace", "1", MLFLOW_TRACKING_URI=proxy.uri, REGISTRY_EXPORT_CONFIG="") as worker:
            until(lambda: proxy.seen, lambda: worker.log)
            assert stopped(worker, 20) < 12
    assert site.ledger.list() == ()
