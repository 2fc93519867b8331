"""Warm parents as steps: one start for all who need it, none of whom holds a core meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry_export.admission import Admission
from registry_export.errors import ChildCrashedError, ExportCancelledError
from registry_export.format import Toolchain
from registry_export.reporter import Reporter
from registry_export.starts import EarlyStarts, Starts

NEVER = threading.Event()
TORCH, NUMPY, BROKEN = Toolchain("torch"), Toolchain("numpy"), Toolchain("broken")


class Pool:
    """Has parents whose start takes until it is let go."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.go = threading.Event()
        self.begun: list[str] = []
        self.running: set[str] = set()

    def runs(self, toolchain: Toolchain) -> bool:
        return toolchain.name in self.running

    def start(self, toolchain: Toolchain) -> None:
        self.begun.append(toolchain.name)
        assert self.go.wait(10)
        if toolchain is BROKEN:
            raise ChildCrashedError("The toolchain broken cannot be imported.")
        self.running.add(toolchain.name)


class Lanes(Reporter):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def child_ended(self, run) -> None:
        self.seen.append((run.step, run.variant, run.core))


@pytest.fixture
def pool():
    made = Pool()
    yield made
    made.go.set()


def starts_of(pool: Pool, cores: int = 2) -> Starts:
    return Starts(pool, Admission(cores=cores, available=lambda: 10**12), Lanes())


def eventually(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_parent_that_several_need_is_started_once_and_leaves_the_other_cores_free(pool):
    starts = starts_of(pool)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(starts.ensure, TORCH, 1.0, NEVER) for _ in range(4)]
        eventually(lambda: pool.begun)
        with starts.queue.place(1.0, 1, NEVER) as core:  # would wait for ever, did those who wait hold cores
            assert core == 1
        pool.go.set()
        for one in waiting:
            one.result()
    assert pool.begun == ["torch"]
    assert starts.reporter.seen == [("start", "torch", 0)]
    starts.ensure(TORCH, 1.0, NEVER)
    assert pool.begun == ["torch"], "it runs"


def test_a_toolchain_that_cannot_be_imported_is_told_to_all_who_need_it_and_tried_again_later(pool):
    starts = starts_of(pool)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(starts.ensure, BROKEN, 1.0, NEVER) for _ in range(2)]
        eventually(lambda: pool.begun)
        time.sleep(0.1)
        pool.go.set()
        for one in waiting:
            with pytest.raises(ChildCrashedError, match="cannot be imported"):
                one.result()
    with pytest.raises(ChildCrashedError):
        starts.ensure(BROKEN, 1.0, NEVER)
    assert pool.begun == ["broken", "broken"]


def test_parents_are_started_on_free_cores_until_there_are_enough(pool):
    with EarlyStarts(starts_of(pool), [TORCH, NUMPY]) as early:
        eventually(lambda: pool.begun)
        early.enough()
        pool.go.set()
    assert pool.begun == ["torch"]


def test_a_toolchain_that_is_broken_does_not_keep_the_next_from_being_started_early(pool):
    pool.go.set()
    with EarlyStarts(starts_of(pool), [BROKEN, TORCH]):
        eventually(lambda: "torch" in pool.running)
    assert pool.begun == ["broken", "torch"]


def test_a_single_core_starts_nothing_early(pool):
    with EarlyStarts(starts_of(pool, cores=1), [TORCH]):
        time.sleep(0.2)
    assert pool.begun == []


def test_who_needs_a_parent_that_was_to_be_started_early_starts_it_where_that_was_given_up(pool):
    starts = starts_of(pool, cores=2)
    pool.go.set()
    with starts.queue.place(9.0, 1, NEVER), ThreadPoolExecutor(1) as threads:
        with starts.queue.place(9.0, 1, NEVER), EarlyStarts(starts, [TORCH]):  # no core is free: it waits in the queue
            eventually(lambda: starts._under_way)
            needs = threads.submit(starts.ensure, TORCH, 1.0, NEVER)
            time.sleep(0.1)
        needs.result(10)
    assert pool.begun == ["torch"]


def test_a_cancelled_export_starts_nothing_more(pool):
    starts, cancelled = starts_of(pool, cores=1), threading.Event()
    cancelled.set()
    with starts.queue.place(9.0, 1, NEVER), pytest.raises(ExportCancelledError):
        starts.ensure(TORCH, 1.0, cancelled)
    assert pool.begun == []
