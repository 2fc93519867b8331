from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from registry_export.errors import (
    ChildCrashedError,
    ChildError,
    ChildOutOfMemoryError,
    ChildTimeoutError,
    ExportCancelledError,
    UnsupportedModelError,
)
from registry_export.format import Toolchain
from registry_export.isolation import ChildPool, Limits

PLAIN = Toolchain("plain", ("json",))
HERE = "tests.unit.child_functions:"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    os.environ["PYTHONPATH"] = str(Path.cwd())
    yield
    del os.environ["PYTHONPATH"]


@pytest.fixture(scope="module")
def pool(_importable):
    with ChildPool(Limits(timeout_s=60)) as pool:
        yield pool


def test_a_value_comes_home(pool, tmp_path):
    assert pool.call(PLAIN, HERE + "echo", {"a": [1, None, "x"]}, tmp_path).value == {"a": [1, None, "x"]}


def test_a_child_works_in_its_own_folder_with_the_toolchain_imported(pool, tmp_path):
    first = pool.call(PLAIN, HERE + "surroundings", {}, tmp_path).value
    second = pool.call(PLAIN, HERE + "surroundings", {}, tmp_path).value
    assert first["cwd"] == str(tmp_path)
    assert first["json"]
    assert first["pid"] != second["pid"]


def test_credentials_do_not_reach_a_child(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with ChildPool() as pool:
        environment = pool.call(PLAIN, HERE + "environment", {}, tmp_path).value
    assert "secret" not in environment.values()
    assert environment["HOME"].startswith(str(tmp_path))


def test_threads_of_a_child_wait_asleep_unless_its_surroundings_say_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with ChildPool() as pool:
        environment = pool.call(PLAIN, HERE + "environment", {}, tmp_path).value
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["OPENBLAS_NUM_THREADS"] == "3"


def test_what_a_child_computed_is_counted(pool, tmp_path):
    assert pool.call(PLAIN, HERE + "compute", {"seconds": 0.3}, tmp_path).cpu_seconds >= 0.3
    assert pool.call(PLAIN, HERE + "echo", {}, tmp_path).cpu_seconds < 0.3


def test_an_error_of_ours_keeps_its_class_its_remedy_and_its_step(pool, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"No Foo here\. Use Bar\.") as caught:
        pool.call(PLAIN, HERE + "refuse", {}, tmp_path)
    assert caught.value.step == "a -> b"


def test_a_strangers_error_is_named_and_its_traceback_chained(pool, tmp_path):
    with pytest.raises(ChildError, match="ZeroDivisionError: one by zero") as caught:
        pool.call(PLAIN, HERE + "raise_stranger", {}, tmp_path)
    assert "raise_stranger" in str(caught.value.__cause__)


def test_warnings_come_home(pool, tmp_path):
    assert pool.call(PLAIN, HERE + "warn", {}, tmp_path).warnings == ("UserWarning: mind the gap",)


def test_a_crash_is_named_by_its_signal_with_the_last_lines(pool, tmp_path):
    with pytest.raises(ChildCrashedError, match="SIGSEGV") as caught:
        pool.call(PLAIN, HERE + "crash", {}, tmp_path)
    assert "about to crash" in str(caught.value.__cause__)


def test_leaving_without_an_answer_is_a_crash(pool, tmp_path):
    with pytest.raises(ChildCrashedError, match="exit status 7"):
        pool.call(PLAIN, HERE + "leave", {}, tmp_path)


def test_a_hang_is_a_timeout(pool, tmp_path):
    began = time.monotonic()
    with pytest.raises(ChildTimeoutError, match=r"0\.5 s"):
        pool.call(PLAIN, HERE + "hang", {}, tmp_path, Limits(timeout_s=0.5))
    assert time.monotonic() - began < 10


def test_slowly_growing_past_the_limit_is_out_of_memory(pool, tmp_path):
    with pytest.raises(ChildOutOfMemoryError, match=r"0\.3 GB"):
        pool.call(PLAIN, HERE + "eat", {}, tmp_path, Limits(memory_bytes=300_000_000))


def test_what_a_childs_own_children_hold_counts(pool, tmp_path):
    with pytest.raises(ChildOutOfMemoryError, match=r"0\.3 GB"):
        pool.call(PLAIN, HERE + "let_two_others_eat", {}, tmp_path, Limits(memory_bytes=300_000_000, timeout_s=30))


def test_one_allocation_past_the_limit_is_out_of_memory(pool, tmp_path):
    with pytest.raises(ChildOutOfMemoryError):
        pool.call(PLAIN, HERE + "grab", {}, tmp_path)


def test_children_of_one_parent_run_side_by_side(pool, tmp_path):
    def hang(name):
        (tmp_path / name).mkdir()
        with pytest.raises(ChildTimeoutError):
            pool.call(PLAIN, HERE + "hang", {}, tmp_path / name, Limits(timeout_s=1))

    began = time.monotonic()
    threads = [threading.Thread(target=hang, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 3


def test_a_killed_parent_costs_one_call_and_is_replaced(tmp_path):
    with ChildPool() as pool:
        pool.call(PLAIN, HERE + "echo", {}, tmp_path)
        parent = next(iter(pool._parents.values())).process
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert pool.call(PLAIN, HERE + "echo", {"again": 1}, tmp_path).value == {"again": 1}


def test_cancelling_ends_a_running_child(tmp_path):
    with ChildPool() as pool:
        threading.Timer(1.0, pool.cancel).start()
        with pytest.raises(ExportCancelledError):
            pool.call(PLAIN, HERE + "hang", {}, tmp_path)


def test_a_toolchain_that_cannot_be_imported_is_named(pool, tmp_path):
    with pytest.raises(ChildCrashedError, match="no_such_module"):
        pool.call(Toolchain("broken", ("no_such_module",)), HERE + "echo", {}, tmp_path)


def test_closing_leaves_no_process_behind(tmp_path):
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with ChildPool() as pool:
        pool.call(PLAIN, HERE + "echo", {}, tmp_path)
        assert {p.pid for p in psutil.Process().children(recursive=True)} - before
    assert not {p.pid for p in psutil.Process().children(recursive=True)} - before


def test_toolchains_of_one_name_and_other_modules_do_not_share_a_parent(pool, tmp_path):
    pool.call(PLAIN, HERE + "surroundings", {}, tmp_path)
    other = Toolchain(PLAIN.name, ("json", "wave"))
    assert pool.call(other, HERE + "imported", {"module": "wave"}, tmp_path).value
    assert not pool.call(PLAIN, HERE + "imported", {"module": "wave"}, tmp_path).value
