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
from registry_export.isolation.warm import WarmParent

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
        parent = next(iter(pool._parents)).process
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert pool.call(PLAIN, HERE + "echo", {"again": 1}, tmp_path).value == {"again": 1}


def test_a_temporary_folder_of_a_long_name_does_no_harm(monkeypatch, tmp_path):
    folder = tmp_path / ("long" * 40)
    work = tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before = psutil.Process().num_fds()
    for _ in range(2):
        with ChildPool() as pool:
            assert pool.call(PLAIN, HERE + "echo", {"a": 1}, work).value == {"a": 1}
            assert str(pool._parents.folder).startswith(str(folder))
    assert psutil.Process().num_fds() <= before


def test_a_call_that_cannot_be_read_costs_no_other(pool, tmp_path):
    pool.call(PLAIN, HERE + "echo", {}, tmp_path)
    parent = pool.start(PLAIN)
    with parent.connect() as connection:
        connection.sendall(b'{"function": 1}\n')
        assert connection.recv(100) == b""
    assert pool.call(PLAIN, HERE + "echo", {"again": 1}, tmp_path).value == {"again": 1}
    assert pool.start(PLAIN) is parent
    assert parent.alive


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


def test_what_children_share_is_imported_by_their_parent(pool, tmp_path):
    outcome = pool.call(PLAIN, HERE + "look_for_formats", {}, tmp_path)
    assert "onnx" in outcome.value
    assert [module for module in outcome.imported if module.startswith(("registry_export", "yaml", "numpy"))] == []


def test_a_module_that_a_child_imports_itself_is_told(pool, tmp_path):
    assert "wave" in pool.call(PLAIN, HERE + "import_wave", {}, tmp_path).imported


def test_an_exercise_is_done_before_the_fork_and_its_prints_are_no_answer(tmp_path):
    exercised = Toolchain("exercised", ("json",), exercise=HERE + "exercise")
    with ChildPool() as pool:
        assert pool.call(exercised, HERE + "exercised_by", {}, tmp_path).value not in (None, os.getpid())
        parent = next(iter(pool._parents))
        assert pool.call(exercised, HERE + "exercised_by", {}, tmp_path).value == parent.process.pid
        assert parent.ready.threads == 1
        assert parent.ready.resident_bytes > 10_000_000


def test_an_exercise_that_fails_costs_its_time_alone(tmp_path, caplog):
    caplog.set_level("WARNING", "registry_export")  # whatever other tests have left
    failing = Toolchain("failing", ("json",), exercise=HERE + "refuse_exercise")
    with ChildPool() as pool:
        assert pool.call(failing, HERE + "echo", {"a": 1}, tmp_path).value == {"a": 1}
    assert "failing could not be exercised" in caplog.text
    assert "OSError: not today" in caplog.text


def test_a_parent_that_left_a_thread_behind_is_told_of(tmp_path, caplog):
    caplog.set_level("INFO", "registry_export")
    threaded = Toolchain("threaded", ("json",), exercise=HERE + "leave_a_thread")
    with ChildPool() as pool:
        pool.call(threaded, HERE + "echo", {}, tmp_path)
        assert next(iter(pool._parents)).ready.threads == 2
    assert "of threaded has 2 threads" in caplog.text


def test_parents_are_warmed_side_by_side_ahead_of_their_use(tmp_path):
    first, second = (Toolchain(f"slow {i}", ("json",), exercise=HERE + "take_a_second") for i in range(2))
    with ChildPool() as pool:
        pool.warm([first, second, first])
        assert pool.call(first, HERE + "echo", {"a": 1}, tmp_path).value == {"a": 1}
        _wait_until(lambda: len(pool.parents()) == 2)
        assert pool._parents._count == 2
        assert [parent.active for parent in pool._parents] == [0, 0]


def test_what_cannot_be_warmed_is_an_error_of_its_call_alone(tmp_path):
    broken = Toolchain("broken", ("no_such_module",))
    with ChildPool() as pool:
        pool.warm([broken, PLAIN])
        assert pool.call(PLAIN, HERE + "echo", {}, tmp_path).value == {}
        with pytest.raises(ChildCrashedError, match="no_such_module"):
            pool.call(broken, HERE + "echo", {}, tmp_path)


def test_closing_ends_parents_that_still_start():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    began = time.monotonic()
    with ChildPool() as pool:
        pool.warm([Toolchain("hanging", ("json",), exercise=HERE + "hang_in_exercise")])
        _wait_until(lambda: len(pool._parents._starting) == 1)
    assert time.monotonic() - began < 10
    assert not {p.pid for p in psutil.Process().children(recursive=True)} - before


def test_idle_parents_are_stopped_and_their_memory_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "registry_export")
    with ChildPool() as pool:
        pool.call(PLAIN, HERE + "echo", {}, tmp_path)
        pool.stop_idle(60)
        assert len(pool.parents()) == 1
        pool.stop_idle(0)
        assert not list(pool._parents)
    assert "the warm parent of plain took" in caplog.text
    assert "stopped: the warm parents of plain" in caplog.text


def _wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_parent_whose_start_is_interrupted_ends_and_leaves_no_folder(monkeypatch):
    begun = []

    def interrupted(parent):
        begun.append(parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(WarmParent, "await_ready", interrupted)
    with ChildPool() as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.start(Toolchain("hanging", ("json",), exercise=HERE + "hang_in_exercise"))
        folder = pool._parents.folder
        assert not begun[0].alive
    assert not folder.exists()
