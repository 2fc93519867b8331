"""One suite for every database that can keep the ledger."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy

from registry_export.costs import StepCost
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ExportCancelledError, LedgerError, LedgerUnavailableError, StaleLeaseError
from registry_export.ledger import (
    Database,
    JobState,
    LearntCosts,
    Ledger,
    OutboxReader,
    Promotion,
    Promotions,
    Reversions,
    Verifications,
)
from registry_export.outbox import create_outbox, database_now_ms, outbox

DIGITS = ModelVersionRef("digits", "1")


@pytest.fixture(params=["sqlite", "postgresql"])
def make_uri(request, tmp_path, postgres_uri):
    """A factory of empty databases."""
    numbers = iter(range(100))
    return (lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}") if request.param == "sqlite" else postgres_uri


@pytest.fixture
def ledger(make_uri):
    ledger = Ledger(make_uri(), backoff_s=0.01)
    ledger.migrate()
    yield ledger
    ledger.dispose()


def same(ledger):
    return ledger.database.engine.url.render_as_string(hide_password=False)


def promote(uri, *triggers, ref=DIGITS, previous_status=None, previous=None, details=None):
    """Leave rows in the outbox, as the hook does."""
    database = Database(uri, "registry")
    with database.write() as connection:
        create_outbox(connection)
        for trigger in triggers:
            connection.execute(
                outbox.insert().values(
                    event=f"{time.monotonic_ns():032d}",
                    workspace="default",
                    model_name=ref.name,
                    version=ref.version,
                    trigger=trigger,
                    previous_status=previous_status,
                    previous=previous,
                    details=details,
                    created_at_ms=database_now_ms(),
                )
            )
    database.dispose()


def test_a_job_goes_from_queued_to_done(ledger):
    number = ledger.enqueue(DIGITS, "manual")
    assert ledger.get(number).state is JobState.QUEUED
    job = ledger.claim("worker")
    assert (job.id, job.model_version, job.trigger, job.attempt) == (number, DIGITS, "manual", 1)
    assert job.state is JobState.RUNNING
    ledger.complete(job, Status.MISMATCH, run_id="run")
    settled = ledger.get(number)
    assert (settled.state, settled.status, settled.run_id, settled.lease) == (
        JobState.DONE,
        Status.MISMATCH,
        "run",
        "",
    )
    assert ledger.claim("worker") is None


def test_jobs_are_claimed_in_the_order_of_their_arrival(ledger):
    numbers = [ledger.enqueue(ModelVersionRef("digits", str(version)), "manual") for version in range(3)]
    assert [ledger.claim("worker").id for _ in numbers] == numbers


def test_a_particular_job_can_be_claimed(ledger):
    ledger.enqueue(DIGITS, "manual")
    wanted = ledger.enqueue(ModelVersionRef("digits", "2"), "manual")
    assert ledger.claim("worker", job_id=wanted).id == wanted
    assert ledger.claim("worker", job_id=wanted) is None


def test_a_job_that_its_asker_runs_is_claimed_from_its_first_moment(ledger):
    job = ledger.begin(DIGITS, "manual", "shell", targets="onnx, tflite")
    assert (job.state, job.worker, job.attempt, job.targets) == (JobState.RUNNING, "shell", 1, "onnx, tflite")
    assert ledger.claim("worker") is None
    assert ledger.begin(DIGITS, "manual", "another shell") is None, "one export of a version at a time"
    ledger.complete(job, Status.VERIFIED)
    assert ledger.begin(DIGITS, "manual", "another shell") is not None


def test_two_jobs_of_one_version_never_run_at_once(ledger):
    first, second = ledger.enqueue(DIGITS, "stage:Staging"), ledger.enqueue(DIGITS, "alias:champion")
    other = ledger.enqueue(ModelVersionRef("digits", "2"), "manual")
    running = ledger.claim("a")
    assert running.id == first
    assert ledger.claim("b").id == other
    assert ledger.claim("c") is None
    assert ledger.claim("c", job_id=second) is None
    ledger.complete(running, Status.VERIFIED)
    assert ledger.claim("c").id == second


def test_versions_that_share_a_checkpoint_never_run_at_once(ledger):
    ledger.enqueue(DIGITS, "manual")
    ledger.enqueue(ModelVersionRef("digits-production", "1"), "manual")
    first, second = ledger.claim("a"), ledger.claim("b")
    assert ledger.hold(first, "m-1")
    assert ledger.hold(first, "m-1"), "asking again is no conflict with oneself"
    assert not ledger.hold(second, "m-1")
    ledger.postpone(second, 0.0, "waits")
    assert ledger.get(second.id).attempt == 0, "waiting for another job is no attempt"
    ledger.complete(first, Status.VERIFIED)
    assert ledger.hold(ledger.claim("b"), "m-1")


def test_a_job_of_a_vanished_worker_runs_again_and_its_old_lease_settles_nothing(ledger):
    ledger.enqueue(DIGITS, "manual")
    vanished = ledger.claim("vanished", lease_s=0.05)
    assert ledger.claim("other") is None
    time.sleep(0.1)
    taken = ledger.claim("other")
    assert (taken.id, taken.attempt) == (vanished.id, 2)
    for settle in (
        lambda: ledger.complete(vanished, Status.VERIFIED),
        lambda: ledger.fail(vanished, "too late", transient=True),
        lambda: ledger.ignore(vanished, "too late"),
        lambda: ledger.postpone(vanished, 1.0, "too late"),
        lambda: ledger.cancelled(vanished),
        lambda: ledger.hold(vanished, "m-1"),
        lambda: ledger.renew(vanished),
    ):
        with pytest.raises(StaleLeaseError, match="other"):
            settle()
    ledger.complete(taken, Status.VERIFIED)


def test_a_heartbeat_keeps_a_job(ledger):
    ledger.enqueue(DIGITS, "manual")
    job = ledger.claim("worker", lease_s=1.0)
    for _ in range(4):
        time.sleep(0.3)
        ledger.renew(job, 1.0)
    assert ledger.claim("other") is None
    ledger.complete(job, Status.VERIFIED)


def test_a_transient_failure_is_tried_again_later_and_less_and_less_often(make_uri):
    ledger = Ledger(make_uri(), backoff_s=100.0, max_backoff_s=300.0)
    ledger.migrate()
    number = ledger.enqueue(DIGITS, "manual")
    delays = []
    for attempt in range(1, 4):
        job = ledger.claim("worker")
        assert job.attempt == attempt
        failed = ledger.fail(job, "The server is down.", transient=True)
        assert (failed.state, failed.error) == (JobState.FAILED, "The server is down.")
        delays.append((failed.available_at - failed.updated_at).total_seconds())
        assert ledger.claim("worker") is None, "not before its time"
        with ledger.database.write() as connection:
            connection.exec_driver_sql("UPDATE registry_export_jobs SET available_at_ms = 0")
    for delay, mean in zip(delays, (100, 200, 300), strict=True):
        assert 0.49 * mean <= delay <= 1.51 * mean
    assert ledger.get(number).attempt == 3


def test_a_job_that_keeps_failing_ends_dead_and_says_why(make_uri):
    ledger = Ledger(make_uri(), max_attempts=2, backoff_s=0.001)
    ledger.migrate()
    ledger.enqueue(DIGITS, "manual")
    assert ledger.fail(ledger.claim("worker"), "Down.", transient=True).state is JobState.FAILED
    time.sleep(0.01)
    dead = ledger.fail(ledger.claim("worker"), "Down.", transient=True)
    assert (dead.state, dead.status, dead.error) == (JobState.DEAD, Status.FAILED, "Down. Given up after 2 attempts.")


def test_a_permanent_failure_is_dead_at_once(ledger):
    ledger.enqueue(DIGITS, "manual")
    assert ledger.fail(ledger.claim("worker"), "Corrupt.", transient=False).state is JobState.DEAD
    assert ledger.claim("worker") is None


def vanish(ledger):
    """Claim a job and never be heard of again."""
    job = ledger.claim("worker", lease_s=0.01)
    time.sleep(0.05)
    return job


def test_a_job_that_takes_three_workers_down_is_buried_with_a_reason(ledger):
    number = ledger.enqueue(DIGITS, "manual")
    assert [(job.attempt, job.vanished) for job in (vanish(ledger) for _ in range(3))] == [(1, 0), (2, 1), (3, 2)]
    assert ledger.claim("worker") is None, "it would take a fourth worker down"
    (lapsed,) = ledger.lapsed()
    assert ledger.bury(lapsed)
    assert not ledger.bury(lapsed), "one worker buries it"
    buried = ledger.get(number)
    assert (buried.state, buried.status, buried.vanished) == (JobState.DEAD, Status.FAILED, 3)
    assert buried.error.startswith("Its worker ended without a word 3 times")
    assert f"`registry-export jobs retry {number}`" in buried.error, "nothing says what to do"
    assert ledger.lapsed() == ()


def test_a_retry_takes_the_count_of_vanished_workers_back(ledger):
    number = ledger.enqueue(DIGITS, "manual")
    for _ in range(3):
        vanish(ledger)
    ledger.bury(ledger.lapsed()[0])
    assert (ledger.retry(number).vanished, ledger.get(number).attempt) == (0, 0)
    assert [vanish(ledger).vanished for _ in range(3)] == [0, 1, 2], "it has all its attempts again"


def test_failures_and_vanished_workers_are_counted_apart(make_uri):
    ledger = Ledger(make_uri(), max_attempts=4, max_vanished=3, backoff_s=0.001)
    ledger.migrate()
    number = ledger.enqueue(DIGITS, "manual")
    for _ in range(2):
        vanish(ledger)
    for _ in range(3):
        failed = ledger.fail(ledger.claim("worker"), "Down.", transient=True)
        assert (failed.state, failed.vanished) == (JobState.FAILED, 2), "a vanished worker cost a failure its attempt"
        time.sleep(0.02)
    dead = ledger.fail(ledger.claim("worker"), "Down.", transient=True)
    assert (dead.state, dead.vanished) == (JobState.DEAD, 2)
    ledger.retry(number)
    for _ in range(3):
        ledger.fail(ledger.claim("worker"), "Down.", transient=True)
        time.sleep(0.02)
    for vanished in range(2):
        assert vanish(ledger).vanished == vanished, "failures count as vanished workers"
    assert ledger.claim("worker") is not None


def test_jobs_given_back_and_jobs_whose_worker_awoke_in_time_count_no_vanished_worker(ledger):
    ledger.enqueue(DIGITS, "manual")
    for _ in range(4):
        ledger.postpone(ledger.claim("worker"), 0.0, "Its worker was stopped.")
    job = vanish(ledger)
    ledger.renew(job)  # it was paused, and nobody has taken its job
    ledger.complete(job, Status.VERIFIED)
    assert (ledger.get(job.id).vanished, ledger.get(job.id).attempt) == (0, 1)


def test_the_first_claim_of_a_job_is_one_however_often_it_is_given_back_and_retried(ledger):
    number = ledger.enqueue(DIGITS, "manual")
    claims = []
    for _ in range(3):
        claims.append(ledger.claim("worker"))
        ledger.postpone(claims[-1], 0.0, "Its worker was stopped.")
    claims.append(ledger.claim("worker"))
    ledger.fail(claims[-1], "No.", transient=False)
    ledger.retry(number)
    claims.append(ledger.claim("worker"))
    assert [claim.attempt for claim in claims] == [1] * 5
    assert [claim.first_claim for claim in claims] == [True, False, False, False, False]


def test_a_claim_is_not_the_first_where_another_worker_was_quicker_and_gave_the_job_back(ledger, monkeypatch):
    ledger.enqueue(DIGITS, "manual")
    claim_one = ledger._claim_one

    def overtaken(*arguments):
        monkeypatch.setattr(ledger, "_claim_one", claim_one)
        ledger.postpone(ledger.claim("another"), 0.0, "Its worker was stopped.")
        return claim_one(*arguments)

    monkeypatch.setattr(ledger, "_claim_one", overtaken)
    assert not ledger.claim("worker").first_claim


def test_a_waiting_job_is_cancelled_at_once(ledger):
    number = ledger.enqueue(DIGITS, "manual")
    assert ledger.cancel(number).state is JobState.CANCELLED
    assert ledger.claim("worker") is None


def test_a_running_job_hears_of_its_cancellation_at_its_next_heartbeat(ledger):
    job = ledger.get(ledger.enqueue(DIGITS, "manual"))
    job = ledger.claim("worker")
    asked = ledger.cancel(job.id)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    with pytest.raises(ExportCancelledError):
        ledger.renew(job)
    ledger.cancelled(job)
    assert ledger.get(job.id).state is JobState.CANCELLED


def test_a_cancelled_job_that_fails_before_it_hears_of_it_is_not_tried_again(ledger):
    ledger.enqueue(DIGITS, "manual")
    job = ledger.claim("worker")
    ledger.cancel(job.id)
    assert ledger.fail(job, "Down.", transient=True).state is JobState.CANCELLED


def test_a_cancelled_job_whose_worker_vanished_does_not_run_again(ledger):
    ledger.enqueue(DIGITS, "manual")
    job = ledger.claim("worker", lease_s=0.01)
    ledger.cancel(job.id)
    time.sleep(0.05)
    assert ledger.claim("other") is None
    (lapsed,) = ledger.lapsed()
    ledger.bury(lapsed)
    assert ledger.get(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize("settle", ["done", "dead", "cancelled", "failed"])
def test_a_person_can_retry_what_is_settled(make_uri, settle):
    ledger = Ledger(make_uri(), backoff_s=1000.0)
    ledger.migrate()
    ledger.enqueue(DIGITS, "manual")
    job = ledger.claim("worker")
    with pytest.raises(LedgerError, match="running"):
        ledger.retry(job.id)
    match settle:
        case "done":
            ledger.complete(job, Status.FAILED)
        case "dead":
            ledger.fail(job, "Corrupt.", transient=False)
        case "cancelled":
            ledger.cancelled(job)
        case "failed":
            ledger.fail(job, "Down.", transient=True)
    again = ledger.retry(job.id)
    assert (again.state, again.attempt, again.error, again.status) == (JobState.QUEUED, 0, "", None)
    assert ledger.claim("worker").id == job.id


def test_an_unknown_job_is_named(ledger):
    for ask in (ledger.get, ledger.retry, ledger.cancel):
        with pytest.raises(LedgerError, match="no job 77"):
            ask(77)


def test_list_shows_the_newest_first_and_filters(ledger):
    first, second = ledger.enqueue(DIGITS, "manual"), ledger.enqueue(ModelVersionRef("other", "1"), "manual")
    ledger.complete(ledger.claim("worker"), Status.VERIFIED)
    assert [job.id for job in ledger.list()] == [second, first]
    assert [job.id for job in ledger.list(states=[JobState.DONE])] == [first]
    assert [job.id for job in ledger.list(ref=ModelVersionRef("other", "1"))] == [second]
    assert [job.id for job in ledger.list(limit=1)] == [second]


def test_a_worker_leaves_the_jobs_of_other_workspaces_alone(ledger):
    number = ledger.enqueue(DIGITS, "manual", workspace="team")
    default = ledger.enqueue(DIGITS, "manual", workspace="default")
    assert ledger.claim("worker").id == default
    assert ledger.claim("worker") is None
    assert ledger.claim("worker", workspace="team").id == number


# The outbox.


@pytest.mark.parametrize("place", ["the same database", "another database"])
def test_the_outbox_moves_into_the_ledger_once(ledger, make_uri, place):
    uri = same(ledger) if place == "the same database" else make_uri()
    promote(uri, "stage:Staging", "alias:champion", previous_status="verified")
    reader = OutboxReader(uri)
    assert ledger.drain_outbox(reader) == 2
    assert ledger.drain_outbox(reader) == 0
    assert [(job.trigger, job.previous_status, job.workspace) for job in reversed(ledger.list())] == [
        ("stage:Staging", "verified", None),
        ("alias:champion", "verified", None),
    ]


def test_a_drain_that_is_interrupted_before_the_rows_are_deleted_moves_nothing_twice(ledger, make_uri):
    uri = make_uri()
    promote(uri, "stage:Staging", "alias:champion")
    reader = OutboxReader(uri)
    rows = reader.read(10)

    class Interrupted(OutboxReader):
        def delete(self, rows):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.drain_outbox(Interrupted(uri))
    assert len(reader.read(10)) == 2, "the rows are still there"
    assert ledger.drain_outbox(reader) == 0
    assert reader.read(10) == ()
    assert len(ledger.list()) == len(rows)


def test_several_workers_draining_at_once_move_every_row_once(ledger, make_uri):
    uri = make_uri()
    promote(uri, *(f"alias:a{number}" for number in range(20)))
    with ThreadPoolExecutor(4) as pool:
        moved = sum(pool.map(lambda _: ledger.drain_outbox(OutboxReader(uri)), range(4)))
    assert moved == 20
    assert sorted(job.trigger for job in ledger.list()) == sorted(f"alias:a{number}" for number in range(20))


def test_an_outbox_that_is_made_anew_does_not_lose_its_first_rows(ledger, make_uri):
    for _ in range(2):
        uri = make_uri()  # numbers begin at 1 again
        promote(uri, "stage:Staging", ref=ModelVersionRef("digits", uri[-8:]))
        assert ledger.drain_outbox(OutboxReader(uri)) == 1


def test_the_same_promotion_asked_twice_before_anybody_began_is_one_export(ledger, make_uri):
    uri = make_uri()
    promote(uri, "stage:Staging", "stage:Staging", "alias:champion")
    ledger.drain_outbox(OutboxReader(uri))
    third, second, first = ledger.list()
    assert (first.state, second.state, third.state) == (JobState.QUEUED, JobState.IGNORED, JobState.QUEUED)
    assert f"Job {first.id}" in second.error
    ledger.complete(ledger.claim("worker"), Status.VERIFIED)
    promote(uri, "stage:Staging")
    ledger.drain_outbox(OutboxReader(uri))
    assert ledger.list()[0].state is JobState.QUEUED, "asked again later, it is a wish to export again"


def test_a_job_knows_what_its_promotion_replaced(ledger, make_uri):
    uri = make_uri()
    promote(uri, "stage:Staging", previous="None")
    promote(uri, "alias:champion", previous="")
    promote(uri, "copied:digits/1")
    ledger.drain_outbox(OutboxReader(uri))
    assert [job.previous for job in reversed(ledger.list())] == ["None", "", None]
    assert ledger.get(ledger.enqueue(DIGITS, "reconciled:stage:Staging")).previous is None


@pytest.mark.parametrize("at_ms", ["999999999999999999", "-1", "1e400", "253402300799001"])
def test_an_approval_with_a_time_that_no_calendar_has_hinders_no_job(ledger, at_ms):
    told = '{"approval": {"by": "alice", "at_ms": %s, "reason": "why", "lacking": ["onnx"]}}'
    promote(same(ledger), "stage:Staging", details=told % at_ms)
    promote(same(ledger), "stage:Production", details=told % "253402300799000")
    reader = OutboxReader(same(ledger))
    assert ledger.drain_outbox(reader) == 2
    reader.dispose()
    last, absurd = ledger.list()
    assert absurd.approval is None
    assert last.approval.at == "9999-12-31T23:59:59+00:00"


def test_a_promotion_that_was_taken_back_and_asked_again_replaces_what_the_last_one_replaced(ledger, make_uri):
    uri = make_uri()
    told = '{"approval": {"by": "%s", "at_ms": 0, "reason": "", "lacking": []}}'
    promote(uri, "stage:Staging", previous="None", details=told % "alice")
    promote(uri, "stage:Staging", previous="Staging")  # once more where it is
    promote(uri, "stage:Staging", previous="Archived", details=told % "bob")
    promote(uri, "stage:Staging", previous="Staging")
    for previous in ("", "1", "7", "1"):
        promote(uri, "alias:champion", previous=previous)
    ledger.drain_outbox(OutboxReader(uri))
    alias, stage = ledger.list([JobState.QUEUED])
    assert (stage.previous, alias.previous) == ("Archived", "7")
    assert (stage.approval.by, alias.approval) == ("bob", None)


# Promotions that are put back.


@pytest.fixture
def reversions(ledger):
    return Reversions(ledger.database)


def settle(ledger, trigger="alias:champion", ref=DIGITS, *, revert=True, status=Status.FAILED, previous=None):
    number = ledger.enqueue(ref, trigger, previous=previous)
    ledger.complete(ledger.claim("worker", job_id=number), status, revert=revert)
    return ledger.get(number)


def test_what_is_to_be_put_back_is_taken_by_one_worker_until_it_is_finished(ledger, reversions):
    settle(ledger, revert=False)
    job = settle(ledger)
    assert reversions.take(60.0) == job
    assert reversions.take(60.0) is None, "it is in hand"
    with ledger.database.write() as connection:  # as if that worker had died a minute ago
        connection.exec_driver_sql(
            "UPDATE registry_export_jobs SET reversion_due_at_ms = 1 WHERE reversion_due_at_ms IS NOT NULL"
        )
    assert Reversions(ledger.database, "team").take(60.0) is None, "another workspace's worker leaves it"
    with ThreadPoolExecutor(4) as pool:
        taken = [job for job in pool.map(lambda _: Reversions(ledger.database).take(60.0), range(4)) if job]
    assert [other.id for other in taken] == [job.id]
    reversions.finish(job)
    with ledger.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE registry_export_jobs SET reversion_due_at_ms = 1 WHERE reversion_due_at_ms IS NOT NULL"
        )
    assert reversions.take(60.0) is None


def test_only_what_failed_for_good_is_put_back(make_uri):
    ledger = Ledger(make_uri(), max_attempts=2, backoff_s=0.001)
    ledger.migrate()
    reversions = Reversions(ledger.database)
    dead = ledger.enqueue(DIGITS, "stage:Staging")
    ledger.fail(ledger.claim("worker"), "Down.", transient=True, revert=True)
    assert reversions.take(0.0) is None, "there is another attempt"
    time.sleep(0.01)
    ledger.fail(ledger.claim("worker"), "Down.", transient=True, revert=True)
    assert reversions.take(60.0).id == dead
    ledger.enqueue(DIGITS, "stage:Staging")
    cancelled = ledger.claim("worker")
    ledger.cancel(cancelled.id)
    ledger.fail(cancelled, "Down.", transient=True, revert=True)
    assert reversions.take(60.0) is None
    buried = ledger.enqueue(DIGITS, "stage:Staging")
    for _ in range(3):
        vanish(ledger)
    assert ledger.bury(*ledger.lapsed(), revert=True)
    assert reversions.take(60.0).id == buried
    assert ledger.get(buried).status is Status.FAILED
    ledger.retry(buried)
    assert reversions.take(60.0) is None
    ledger.dispose()


def test_a_workers_own_promotion_is_recognised_once_and_never_merged_with_a_persons(ledger, reversions, make_uri):
    uri = make_uri()
    failed = settle(ledger, ref=ModelVersionRef("digits", "2"))
    reversions.announce(failed, DIGITS, "alias:champion")
    reversions.announce(failed, DIGITS, "alias:champion")
    assert reversions.announced(failed) == (DIGITS, "alias:champion")
    promote(uri, "alias:other", "alias:champion", "alias:champion", "alias:champion")
    ledger.drain_outbox(OutboxReader(uri))
    again, theirs, own, other = ledger.list(ref=DIGITS)
    assert [job.puts_back for job in (other, own, theirs, again)] == [None, failed.id, None, None]
    assert [job.state for job in (own, theirs, again)] == [JobState.QUEUED, JobState.QUEUED, JobState.IGNORED]
    reversions.finish(failed)
    assert reversions.announced(failed) is None
    ledger.ignore(ledger.claim("worker", job_id=own.id), "A worker did this.")
    assert ledger.retry(own.id).puts_back is None, "now a person wants it"


def test_a_row_that_is_read_twice_takes_no_announcement_of_another(ledger, reversions, make_uri):
    uri = make_uri()
    promote(uri, "alias:champion")
    reader = OutboxReader(uri)

    class Interrupted(OutboxReader):
        def delete(self, rows):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.drain_outbox(Interrupted(uri))
    reversions.announce(settle(ledger, "alias:other"), DIGITS, "alias:champion")
    assert ledger.drain_outbox(reader) == 0
    promote(uri, "alias:champion")
    ledger.drain_outbox(reader)
    assert ledger.list()[0].puts_back is not None


def test_several_workers_draining_at_once_recognise_a_promotion_once(ledger, reversions, make_uri):
    uri = make_uri()
    for number in range(5):
        ref = ModelVersionRef("digits", str(number))
        reversions.announce(settle(ledger, "alias:other", ref=ref), ref, "alias:champion")
        promote(uri, "alias:champion", ref=ref)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: ledger.drain_outbox(OutboxReader(uri)), range(4))) == 5
    assert all(job.puts_back is not None for job in ledger.list([JobState.QUEUED]))


def test_promotions_of_one_kind_are_found_together(ledger, reversions):
    other = ModelVersionRef("digits", "2")
    staging = settle(ledger, "stage:Staging")
    production = settle(ledger, "reconciled:stage:Production")
    settle(ledger, "stage:Staging", ref=other)
    champion, moved = settle(ledger), settle(ledger, "reconciled:alias:champion", ref=other)
    settle(ledger, "alias:champion_2")
    ledger.enqueue(DIGITS, "alias:champion")
    ignored = ledger.claim("worker")
    ledger.ignore(ignored, "No rule.")
    assert [job.id for job in reversions.same_kind(staging)] == [production.id, staging.id]
    assert [job.id for job in reversions.same_kind(moved)] == [moved.id, champion.id]


def test_an_outbox_that_no_hook_has_made_yet_is_empty_and_stays_the_hooks_to_make(ledger, make_uri):
    uri = make_uri()
    reader = OutboxReader(uri)
    assert (reader.is_empty(), reader.read(10), ledger.drain_outbox(reader)) == (True, (), 0)
    assert not reader.exists(), "the worker would own it, and the server might not be let in"
    promote(uri, "stage:Staging")
    assert not reader.is_empty()
    assert ledger.drain_outbox(reader) == 1


def test_the_earlier_status_is_found_behind_other_waiting_promotions(ledger):
    first = ledger.enqueue(DIGITS, "alias:a", previous_status="verified")
    second = ledger.enqueue(DIGITS, "alias:b", previous_status="queued")
    assert ledger.earlier_status(ledger.get(first)) == "verified"
    assert ledger.earlier_status(ledger.get(second)) == "verified"
    ledger.complete(ledger.claim("worker"), Status.MISMATCH)
    assert ledger.earlier_status(ledger.get(second)) == "mismatch"
    fresh = ledger.enqueue(ModelVersionRef("fresh", "1"), "alias:a")
    assert ledger.earlier_status(ledger.get(fresh)) is None


# Several workers at once.


def test_many_workers_run_every_job_exactly_once(ledger):
    versions = [ModelVersionRef("digits", str(number % 7)) for number in range(21)]
    for number, ref in enumerate(versions):
        ledger.enqueue(ref, f"alias:a{number}")
    running, done, guard = set(), [], threading.Lock()

    def work(name):
        own = Ledger(same(ledger))
        while len(done) < len(versions):
            job = own.claim(name)
            if job is None:
                time.sleep(0.005)
                continue
            with guard:
                assert job.model_version not in running, "two jobs of one version at once"
                running.add(job.model_version)
            time.sleep(0.002)
            with guard:
                running.remove(job.model_version)
            own.complete(job, Status.VERIFIED)
            done.append(job.id)
        own.dispose()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [f"worker {number}" for number in range(6)]))
    assert sorted(done) == sorted(job.id for job in ledger.list())
    assert {job.attempt for job in ledger.list()} == {1}


WORKER = """
import sys
from registry_export.entities import Status
from registry_export.ledger import Ledger
ledger = Ledger(sys.argv[1])
ledger.migrate()
while (job := ledger.claim(sys.argv[2], lease_s=30)) is not None:
    ledger.renew(job)
    ledger.complete(job, Status.VERIFIED)
    print(job.id, flush=True)
"""


def test_worker_processes_share_the_ledger_without_a_lock_error(make_uri):
    uri = make_uri()
    ledger = Ledger(uri)
    ledger.migrate()
    for number in range(60):
        ledger.enqueue(ModelVersionRef("digits", str(number)), "manual")
    command = [sys.executable, "-c", textwrap.dedent(WORKER), uri]
    workers = [
        subprocess.Popen([*command, f"w{number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [error for _, error in outputs] == [""] * 4
    done = [int(line) for output, _ in outputs for line in output.split()]
    assert len(done) == len(set(done)) == 60
    ledger.dispose()


def test_times_are_the_databases_own(ledger, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    job = ledger.get(ledger.enqueue(DIGITS, "manual"))
    assert job.created_at.year > 2020


def test_a_database_that_is_down_is_transient_and_keeps_the_password_to_itself():
    ledger = Ledger("postgresql+psycopg2://user:secret@127.0.0.1:1/nowhere")
    with pytest.raises(LedgerUnavailableError) as caught:
        ledger.claim("worker")
    assert caught.value.transient
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("absent", ["psycopg", "psycopg2"])
def test_a_url_without_a_driver_takes_the_one_that_is_installed(postgres_uri, absent):
    pytest.importorskip("psycopg" if absent == "psycopg2" else "psycopg2")
    bare = sqlalchemy.make_url(postgres_uri()).set(drivername="postgresql").render_as_string(hide_password=False)
    code = f"""
        import sys
        from importlib.machinery import PathFinder
        find_spec = PathFinder.find_spec
        PathFinder.find_spec = lambda name, *place: None if name == {absent!r} else find_spec(name, *place)
        from registry_export.ledger import Ledger
        ledger = Ledger(sys.argv[1])
        ledger.migrate()
        print(ledger.list(), ledger.database.engine.driver)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), bare]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["()", "psycopg2" if absent == "psycopg" else "psycopg"], ended.stderr


@pytest.mark.parametrize("uri", ["nonsense", "nosuchdialect://x/y"])
def test_an_address_that_is_none_is_refused(uri):
    with pytest.raises(LedgerError, match="no SQLAlchemy URL"):
        Ledger(uri)


def test_the_write_ahead_log_is_for_our_own_file_and_never_for_mlflows(tmp_path):
    own, theirs = (f"sqlite:///{tmp_path / name}.db" for name in ("own", "mlflow"))
    engine = sqlalchemy.create_engine(theirs)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE registered_models (name TEXT)")
    modes = []
    for uri in (own, theirs):
        Ledger(uri).migrate()
        with sqlalchemy.create_engine(uri).connect() as connection:
            modes.append(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
    assert modes == ["wal", "delete"]


# The reconciler's memory.


def test_one_worker_takes_the_turn_in_each_interval(ledger):
    first, second = Promotions(ledger.database), Promotions(ledger.database)
    assert first.take_turn(0.2)
    assert not second.take_turn(0.2)
    time.sleep(0.25)
    assert second.take_turn(0.2)
    assert Promotions(ledger.database, "team").take_turn(60.0), "another workspace has its own"


def test_promotions_are_remembered_per_workspace(ledger):
    promotions, others = Promotions(ledger.database), Promotions(ledger.database, "team")
    stage, alias = Promotion(DIGITS, "stage:Staging", "abc"), Promotion(DIGITS, "alias:champion")
    promotions.put(stage)
    promotions.put(alias)
    promotions.put(Promotion(DIGITS, "stage:Staging", ""))
    assert promotions.of_kind("alias") == (alias,)
    assert set(promotions.of_version(DIGITS)) == {alias, Promotion(DIGITS, "stage:Staging", "")}
    assert others.of_version(DIGITS) == ()
    promotions.forget([alias])
    assert promotions.of_kind("alias") == ()


def test_promotions_put_together_are_remembered_as_those_put_one_by_one(ledger):
    promotions, others = Promotions(ledger.database), Promotions(ledger.database, "team")
    old, other = Promotion(DIGITS, "stage:Staging", "abc"), Promotion(ModelVersionRef("letters", "2"), "alias:a")
    promotions.put(old)
    others.put(old)
    promotions.put_all([other, Promotion(DIGITS, "stage:Staging", "")])
    assert promotions.of_models(["letters", "nobody"]) == (other,)
    promotions.put(Promotion(DIGITS, "alias:b"))
    assert (promotions.counts(), others.counts()) == ((3, 2), (1, 1))
    promotions.forget([Promotion(DIGITS, "alias:b")])
    assert set(promotions.all()) == {other, Promotion(DIGITS, "stage:Staging", "")}
    assert others.all() == (old,), "another workspace has its own"
    promotions.put_all([])


def test_sweeps_that_overlap_remember_a_promotion_once(ledger):
    promotions, seen = Promotions(ledger.database), Promotion(DIGITS, "stage:Staging", "abc")
    promotions.put_all([seen, Promotion(DIGITS, "alias:champion"), seen])
    assert set(promotions.all()) == {seen, Promotion(DIGITS, "alias:champion")}


def test_jobs_of_another_workspace_are_not_listed_with_ones_own(ledger):
    ledger.enqueue(DIGITS, "stage:Staging")
    ledger.enqueue(DIGITS, "stage:Staging", workspace="team")
    assert [job.workspace for job in ledger.list(ref=DIGITS, workspaces=("team",))] == ["team"]
    assert [job.workspace for job in ledger.list(ref=DIGITS, workspaces=(None,))] == [None]
    assert len(ledger.list(ref=DIGITS)) == 2


def test_a_promotion_put_with_others_was_looked_at_just_now(ledger):
    promotions = Promotions(ledger.database)
    first, second = Promotion(DIGITS, "stage:Staging"), Promotion(DIGITS, "alias:champion")
    for promotion in (first, second):
        promotions.put(promotion)
        time.sleep(0.01)
    promotions.put_all([first])
    assert promotions.longest_unchecked(1) == (second,)


def test_a_job_that_waits_or_runs_is_unsettled(ledger):
    assert not ledger.has_unsettled()
    ledger.enqueue(DIGITS, "stage:Staging")
    assert ledger.has_unsettled()
    job = ledger.claim("worker")
    assert ledger.has_unsettled()
    ledger.complete(job, Status.VERIFIED)
    assert not ledger.has_unsettled()


def test_an_outbox_with_a_row_is_not_empty(ledger, make_uri):
    uri = make_uri()
    reader = OutboxReader(uri)
    assert reader.is_empty()
    promote(uri, "stage:Staging")
    assert not reader.is_empty()
    reader.dispose()


def test_cursors_are_remembered(ledger):
    promotions = Promotions(ledger.database)
    assert promotions.cursor("stages") == 0
    promotions.set_cursor("stages", 5)
    promotions.set_cursor("stages", 7)
    assert promotions.cursor("stages") == 7


# Verifications of what is exported already.


def settle_at_once(ledger, ref, trigger, status=Status.VERIFIED):
    job = ledger.begin(ref, trigger, "worker")
    ledger.complete(job, status)
    return ledger.get(job.id)


def test_a_verification_is_told_apart_by_its_trigger_alone(ledger):
    kinds = {
        trigger: settle_at_once(ledger, DIGITS, trigger).verifies for trigger in ("verify", "verify:schedule", "manual")
    }
    assert kinds == {"verify": True, "verify:schedule": True, "manual": False}


def test_a_version_was_verified_by_its_latest_verification_else_at_its_first_export(ledger):
    def history():
        return Verifications(ledger.database).histories()[DIGITS]

    first = settle_at_once(ledger, DIGITS, "stage:Staging")
    exported = history()
    assert (exported.latest_job, exported.active) == (first.id, False)
    assert exported.verified_ms == round(first.updated_at.timestamp() * 1000)
    time.sleep(0.01)
    later = settle_at_once(ledger, DIGITS, "stage:Production")
    assert history().verified_ms == exported.verified_ms, "an export keeps what is verified"
    assert history().latest_job == later.id
    again = settle_at_once(ledger, DIGITS, "verify:schedule")
    assert history().verified_ms == round(again.updated_at.timestamp() * 1000) > exported.verified_ms
    failed = ledger.begin(DIGITS, "verify", "worker")
    assert history().active
    ledger.fail(failed, "no source", transient=False)
    assert not history().active
    assert history().verified_ms >= round(again.updated_at.timestamp() * 1000), "else it would be due for ever"


def test_a_version_that_was_never_exported_was_never_verified(ledger):
    ledger.fail(ledger.begin(DIGITS, "manual", "worker"), "no", transient=False)
    assert Verifications(ledger.database).histories()[DIGITS].verified_ms == 0
    assert Verifications(ledger.database, "other").histories() == {}


def test_a_dead_verification_is_no_earlier_status(ledger):
    settle_at_once(ledger, DIGITS, "stage:Staging")
    ledger.fail(ledger.begin(DIGITS, "verify", "worker"), "no source", transient=False)
    job = ledger.get(ledger.enqueue(DIGITS, "alias:x", previous_status="verified"))
    assert ledger.earlier_status(job) == "verified"


def test_the_version_exported_before_is_that_of_the_same_stage_or_alias_and_model(ledger):
    def version(number, name="digits"):
        return ModelVersionRef(name, number)

    settle_at_once(ledger, version("1"), "alias:champion")
    settle_at_once(ledger, version("2"), "reconciled:alias:champion")
    settle_at_once(ledger, version("3"), "alias:other")
    settle_at_once(ledger, version("4", "letters"), "alias:champion")
    ledger.fail(ledger.begin(version("5"), "alias:champion", "worker"), "no", transient=False)
    settle_at_once(ledger, version("6"), "alias:champion")
    job = settle_at_once(ledger, version("6"), "alias:champion")
    assert ledger.exported_before(job) == version("2")
    assert ledger.exported_before(settle_at_once(ledger, version("7"), "manual")) is None
    assert ledger.exported_before(settle_at_once(ledger, version("7"), "stage:Staging")) is None
    settle_at_once(ledger, version("8"), "alias:champion")
    assert ledger.exported_before(job) == version("2"), "what came later is no predecessor"


# What steps take.


def test_what_a_step_takes_is_a_mean_that_the_last_measurements_move(ledger):
    costs = LearntCosts(ledger.database)
    assert costs.known() == {}
    for seconds in (2.0, 4.0):
        costs.learn("verify onnx", 20, seconds, 1000)
    costs.learn("verify onnx", 21, 9.0, 5000)
    known = costs.known()
    assert known["verify onnx", 20] == StepCost(3.0, 1000, 2)
    assert known["verify onnx", 21] == StepCost(9.0, 5000, 1), "another size is learnt by itself"
    for _ in range(40):
        costs.learn("verify onnx", 20, 1.0, 1000)
    assert costs.known()["verify onnx", 20].seconds == pytest.approx(1.0, abs=0.02)


def test_the_largest_memory_of_a_step_counts_and_fades(ledger):
    costs = LearntCosts(ledger.database)
    for peak in (1000, 8_000_000_000, 1000):
        costs.learn("convert torch_module to onnx", 30, 1.0, peak)
    [after] = costs.known().values()
    assert 6_900_000_000 < after.peak_bytes < 8_000_000_000


def test_workers_that_learn_at_once_all_count(ledger):
    costs = LearntCosts(ledger.database)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: costs.learn("verify onnx", 20, 2.0, 1000), range(24)))
    assert costs.known() == {("verify onnx", 20): StepCost(2.0, 1000, 24)}


def test_a_ledger_that_is_down_costs_no_export():
    costs = LearntCosts(Database("postgresql+psycopg2://user:secret@127.0.0.1:1/nowhere", "ledger"))
    assert costs.known() == {}
    costs.learn("verify onnx", 20, 2.0, 1000)
