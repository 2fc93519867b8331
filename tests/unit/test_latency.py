"""One call timed: warmed up, by quantiles, within a bound, and with the threads that really computed."""

from __future__ import annotations

import math
import threading
import time

import pytest

from registry_export import latency
from registry_export.latency import measure


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_first_slow_calls_are_no_part_of_the_time():
    calls: list[int] = []

    def call() -> None:
        time.sleep(0.05 if len(calls) < 2 else 0.001)
        calls.append(1)

    taken = measure(call)
    assert taken.median_ms < 20
    assert taken.p90_ms is not None
    assert taken.p90_ms < 40
    assert taken.runs < len(calls)


def test_the_ninetieth_percentile_sees_every_fifth_call_that_is_slow_and_the_median_does_not():
    count = iter(range(10**6))
    taken = measure(lambda: time.sleep(0.02 if next(count) % 5 == 0 else 0.001))
    assert taken.median_ms < 10 < taken.p90_ms


def test_a_slow_model_is_timed_in_few_calls_and_claims_no_percentile(monkeypatch):
    monkeypatch.setattr(latency, "_LONGEST_S", 0.2)
    began = time.monotonic()
    taken = measure(lambda: time.sleep(0.15))
    assert time.monotonic() - began < 2
    assert 1 <= taken.runs <= 3
    assert taken.p90_ms is None


def test_a_call_that_takes_no_time_ends_too():
    taken = measure(lambda: None)
    assert taken.runs == 1000
    assert math.isfinite(taken.median_ms)


@pytest.mark.skipif(not latency._cpu_times(), reason="this system does not tell what threads compute")
def test_threads_that_compute_are_counted_and_idle_ones_are_not():
    assert measure(lambda: spin(0.005)).threads == 1
    stop = threading.Event()
    idle = [threading.Thread(target=stop.wait) for _ in range(3)]
    busy = threading.Thread(target=lambda: [spin(0.001) or time.sleep(0) for _ in iter(stop.is_set, True)])
    for thread in (*idle, busy):
        thread.start()
    try:
        assert measure(lambda: spin(0.005)).threads == 2
    finally:
        stop.set()
        for thread in (*idle, busy):
            thread.join()


def test_what_fails_while_it_is_timed_is_told_and_garbage_is_collected_again():
    import gc

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        measure(fail)
    assert gc.isenabled()
