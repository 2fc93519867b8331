"""The queue of an export's steps: who goes first, what fits, and that everybody's turn comes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry_export import admission
from registry_export.admission import _MOST_OVERTAKEN, Admission
from registry_export.errors import ExportCancelledError

NEVER = threading.Event()
ROOM = 100


def queue(cores: int, free: int = 10**9) -> Admission:
    return Admission(cores=cores, available=lambda: free)


class Steps:
    """Threads that wait in a queue; each holds its place until it is told to leave."""

    def __init__(self, places: Admission) -> None:
        self.admission = places
        self.entered: list[str] = []
        self.cores: dict[str, int] = {}
        self._leave: dict[str, threading.Event] = {}
        self._executor = ThreadPoolExecutor(max_workers=64)

    def ask(self, name: str, seconds: float = 1.0, memory: int = 1) -> None:
        self._leave[name] = threading.Event()

        def hold() -> None:
            with self.admission.place(seconds, memory, NEVER) as core:
                self.cores[name] = core
                self.entered.append(name)
                assert self._leave[name].wait(10)

        self._executor.submit(hold)
        settle()

    def leave(self, name: str) -> None:
        self._leave[name].set()
        settle()

    def close(self) -> None:
        for event in self._leave.values():
            event.set()
        self._executor.shutdown()


def settle() -> None:
    time.sleep(0.05)


@pytest.fixture
def steps(request):
    made = Steps(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("steps", [queue(1)], indirect=True)
def test_the_step_that_the_longest_work_depends_on_goes_first(steps):
    steps.ask("running")
    steps.ask("short", seconds=1)
    steps.ask("long", seconds=9)
    steps.ask("middle", seconds=5)
    for name in ("running", "long", "middle", "short"):
        steps.leave(name)
    assert steps.entered == ["running", "long", "middle", "short"]


@pytest.mark.parametrize("steps", [queue(1)], indirect=True)
def test_a_step_that_another_has_made_possible_is_not_too_late_for_its_place(steps, monkeypatch):
    """A thread that waited for a shared step asks a moment after that step has left its core."""
    steps.ask("shared")
    monkeypatch.setattr(admission, "_GATHER_S", 0.3)
    steps.ask("unimportant", seconds=1)
    threading.Timer(0.05, lambda: steps._leave["shared"].set()).start()

    def follow() -> None:
        while steps.admission._running:
            time.sleep(0.0005)
        steps.ask("next", seconds=9)

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert steps.entered == ["shared", "next"]


@pytest.mark.parametrize("steps", [queue(3)], indirect=True)
def test_as_many_run_as_there_are_cores_each_on_its_own(steps):
    for number in range(5):
        steps.ask(str(number))
    assert len(steps.entered) == 3
    assert sorted(steps.cores[name] for name in steps.entered) == [0, 1, 2]
    first = steps.entered[0]
    steps.leave(first)
    assert len(steps.entered) == 4
    assert steps.cores[steps.entered[3]] == steps.cores[first]


@pytest.mark.parametrize("steps", [queue(2, ROOM)], indirect=True)
def test_a_step_whose_memory_is_not_free_waits_and_a_smaller_one_does_not(steps):
    steps.ask("half", memory=50)
    steps.ask("large", seconds=9, memory=60)
    steps.ask("small", memory=10)
    assert steps.entered == ["half", "small"]
    steps.leave("small")
    assert "large" not in steps.entered
    steps.leave("half")
    assert steps.entered == ["half", "small", "large"]


@pytest.mark.parametrize("steps", [queue(2, ROOM)], indirect=True)
def test_a_step_that_is_expected_to_take_more_than_there_is_runs_alone(steps):
    steps.ask("small", memory=10)
    steps.ask("enormous", seconds=9, memory=1000)
    assert steps.entered == ["small"]
    steps.leave("small")
    steps.ask("another", memory=10)
    assert steps.entered == ["small", "enormous"]
    steps.leave("enormous")
    assert steps.entered == ["small", "enormous", "another"]


@pytest.mark.parametrize("steps", [queue(2, ROOM)], indirect=True)
def test_a_large_step_is_not_overtaken_for_ever(steps):
    steps.ask("first", memory=50)
    steps.ask("large", seconds=9, memory=60)
    before = "first"
    for number in range(_MOST_OVERTAKEN + 2):  # one small step is always there: never is the machine empty by itself
        steps.ask(f"small {number}", memory=40)
        steps.leave(before)
        before = f"small {number}"
    assert "large" in steps.entered
    assert steps.entered.index("large") <= _MOST_OVERTAKEN + 1


@pytest.mark.parametrize("steps", [queue(1)], indirect=True)
def test_who_waits_when_the_export_is_cancelled_leaves_the_queue(steps):
    steps.ask("running")
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(ExportCancelledError), steps.admission.place(9.0, 1, cancelled):
        pass
    assert time.monotonic() - began < 1
    steps.ask("other")
    steps.leave("running")
    assert steps.entered == ["running", "other"]


def test_a_step_that_fails_gives_its_place_back():
    places = queue(1)
    with pytest.raises(ZeroDivisionError), places.place(1.0, 1, NEVER):
        _ = 1 / 0
    with places.place(1.0, 1, NEVER) as core:
        assert core == 0


def test_the_time_in_the_queue_is_known_to_the_thread_that_waited():
    places = queue(1)
    waited = []

    def wait() -> None:
        with places.place(1.0, 1, NEVER):
            waited.append(places.waited)

    with places.place(1.0, 1, NEVER):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
    thread.join()
    assert 0.25 < waited[0] < 2
    assert places.waited < 0.2


def test_the_free_memory_is_looked_at_anew_whenever_nothing_runs():
    free = [100]
    places = Admission(cores=2, available=lambda: free[0])
    with places.place(1.0, 60, NEVER):
        pass
    free[0] = 1000
    with places.place(1.0, 60, NEVER), places.place(1.0, 60, NEVER):
        pass  # would wait for ever beside the first, had nobody looked again
