"""What a child may touch: the walls, one by one, and what is made of their absence."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from registry_export.bench import Bench, run_reference
from registry_export.entities import Interface
from registry_export.errors import ChildError, SandboxError
from registry_export.format import Toolchain
from registry_export.inference import Origin
from registry_export.isolation import (
    ChildPool,
    Limits,
    check_within,
    left_open,
    namespaces,
    reached_by_children,
    sandbox,
    seccomp,
)
from registry_export.isolation.leavings import check_leavings
from registry_export.model_setup import ModelSetup
from registry_export.scratch import remove_tree
from tests.support.signing_keys import key_pair
from tests.unit.stub_formats import PyTorch

PLAIN = Toolchain("plain", ("json",))
HERE = "tests.unit.child_functions:"
NOBODY, DUMPABLE = 65534, 4


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    with ChildPool(Limits(timeout_s=60)) as pool:
        yield pool


def test_a_child_reads_what_its_call_names_and_nothing_beside_it(pool, tmp_path):
    for name in ("work", "given", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    asked = {name: str(tmp_path / name / "file") for name in ("given", "hidden")}
    value = pool.call(PLAIN, HERE + "read", asked, tmp_path / "work", reads=(tmp_path / "given",)).value
    assert value == {"given": "given", "hidden": "PermissionError"}


def test_a_signing_key_that_a_worker_takes_can_be_neither_read_nor_named_by_a_child(pool, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    private, _ = key_pair(tmp_path)
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY", str(private))
    monkeypatch.setenv("REGISTRY_EXPORT_SIGNING_KEY_PASSWORD", "tops3cret")
    assert reached_by_children(private) is None
    assert pool.call(PLAIN, HERE + "read", {"key": str(private)}, tmp_path / "work").value == {"key": "PermissionError"}
    known = str(pool.call(PLAIN, HERE + "environment", {}, tmp_path / "work").value)
    assert "PATH" in known
    assert not any(secret in known for secret in (str(private), "tops3cret", "SIGNING"))


def grown(conn, tasks, siblings):
    """As a child of a user who is not root and runs something else already; tells how many it could start."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        ctypes.CDLL(None).prctl(DUMPABLE, 1, 0, 0, 0)  # as whoever was started by that user
    others = [waiting() for _ in range(siblings)]
    apart = namespaces.be_counted_apart()
    if apart:
        sandbox._limit(resource.RLIMIT_NPROC, tasks)
    started = []
    try:
        while len(started) < 2 * tasks:
            started.append(waiting())
    except BlockingIOError:
        pass
    for pid in (*others, *started):
        os.kill(pid, signal.SIGKILL)
    conn.send((apart, len(started)))


def waiting():
    """Start a process that does nothing."""
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    return pid


@pytest.mark.skipif(sys.platform != "linux", reason="macOS counts all that a user runs")
def test_the_kernel_refuses_a_child_too_many_processes_and_counts_no_others():
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=grown, args=(there, 40, 10))
    process.start()
    assert here.poll(30)
    apart, started = here.recv()
    process.join(30)
    if not apart:
        pytest.skip("this system lets users make no namespace, or counts by user alone")
    assert 30 < started < 40, "its own processes count, and those that ran before do not"


def test_a_child_may_have_the_threads_of_every_library_and_no_end_of_processes(pool, tmp_path):
    value = pool.call(PLAIN, HERE + "process_limit", {}, tmp_path).value
    if value == resource.RLIM_INFINITY or value == resource.getrlimit(resource.RLIMIT_NPROC)[0]:
        pytest.skip("this system lets users make no namespace, or counts by user alone")
    assert 1024 < value == pool.limits.tasks


def test_what_is_said_to_be_within_a_childs_reach_is(pool, tmp_path):
    place = Path(os.__file__)
    assert reached_by_children(place) is not None
    assert pool.call(PLAIN, HERE + "read", {"file": str(place)}, tmp_path).value["file"] != "PermissionError"


def test_a_child_writes_where_its_call_says_and_changes_nothing_that_it_was_given(pool, tmp_path):
    for name in ("work", "given", "output"):
        (tmp_path / name).mkdir()
    asked = {name: str(tmp_path / name / "new") for name in ("work", "given", "output")}
    folders = {"reads": (tmp_path / "given",), "writes": (tmp_path / "output",)}
    value = pool.call(PLAIN, HERE + "write", asked, tmp_path / "work", **folders).value
    assert value == {"work": "written", "given": "PermissionError", "output": "written"}


def test_of_a_folder_of_code_only_modules_are_read(tmp_path):
    for name in ("model.py", "secrets.env", "mlflow.db"):
        (tmp_path / name).touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "mlruns").mkdir()
    assert [path.name for path in ModelSetup(search=(str(tmp_path),)).modules] == ["model.py", "package"]


def test_modules_of_a_project_are_found_after_its_folder_has_changed(tmp_path, monkeypatch, request):
    """Python lists a folder anew when it has changed, and must be let."""
    elsewhere = tempfile.TemporaryDirectory()  # not beside the child's own folder, whose names it may list
    request.addfinalizer(elsewhere.cleanup)
    project = Path(elsewhere.name)
    (project / "late_module.py").write_text("VALUE = 7")
    (project / ".env").write_text("secret")
    monkeypatch.setenv("PYTHONPATH", f"{project}{os.pathsep}{Path.cwd()}")
    with ChildPool(Limits(timeout_s=60)) as pool:
        pool.start(PLAIN)
        (project / "new").touch()
        value = pool.call(PLAIN, HERE + "late_value", {}, tmp_path).value
        hidden = pool.call(PLAIN, HERE + "read", {"env": str(project / ".env")}, tmp_path).value
    assert (value, hidden) == (7, {"env": "PermissionError"})


@pytest.mark.parametrize(
    ("walls", "reach"),
    [
        ((), "the worker's files and sockets"),
        (("netns", "seccomp"), "the worker's files"),
        (("landlock",), "sockets"),
        (("landlock", "netns"), "sockets"),
        (("landlock", "seccomp"), ""),
    ],
)
def test_what_is_within_reach_is_named(walls, reach):
    assert left_open(walls) == reach


@pytest.mark.parametrize("required", [True, False])
def test_a_rule_that_demands_a_sandbox_loads_nothing_where_there_is_none(monkeypatch, tmp_path, required):
    calls = []
    with ChildPool() as pool:
        monkeypatch.setattr(pool, "walls", lambda toolchain: ("netns", "seccomp"))
        monkeypatch.setattr(pool, "call", lambda *a, **k: calls.append(a) or (_ for _ in ()).throw(ChildError("ran")))
        source = Origin("pytorch", str(tmp_path / "model"), Interface(()), setup=ModelSetup(walls_required=required))
        bench = Bench({"pytorch": PyTorch()}, pool, tmp_path)
        with pytest.raises(ChildError, match="can reach the worker's files" if required else "ran") as caught:
            run_reference(bench, source, "", "random", ())
    assert isinstance(caught.value, SandboxError) is required
    assert len(calls) == (not required)


def test_folders_without_end_are_refused_and_removed(tmp_path):
    at = tmp_path / "deep"
    at.mkdir()
    before = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(at)
        for _ in range(1500):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(before)
    with pytest.raises(ChildError, match="64 deep"):
        check_leavings([at])
    remove_tree(at)
    assert not at.exists()


def test_a_file_of_nothing_but_holes_counts_as_what_it_pretends_to_hold(tmp_path):
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(10**9)
    check_leavings([tmp_path], most_bytes=2 * 10**9)
    with pytest.raises(ChildError, match=r"1\.0 GB; 0\.5 GB are allowed"):
        check_leavings([tmp_path], most_bytes=5 * 10**8)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_would_lead_or_hold_up_a_reader_is_refused(tmp_path, kind):
    folder = tmp_path / "folder" / "below"
    folder.mkdir(parents=True)
    (folder / "plain").touch()
    check_leavings([tmp_path])
    (folder / "link").symlink_to("/etc/passwd") if kind == "link" else os.mkfifo(folder / "pipe")
    with pytest.raises(ChildError, match=f"no plain file: {kind}"):
        check_leavings([tmp_path])


def test_a_path_that_leaves_its_folder_is_refused(tmp_path):
    check_within(["", str(tmp_path), str(tmp_path / "a" / "b")], (tmp_path,))
    for path in ("/etc/passwd", str(tmp_path / ".." / "other"), f"{tmp_path}-beside"):
        with pytest.raises(ChildError, match="not its own"):
            check_within([path], (tmp_path,))


def test_the_filter_knows_another_architectures_numbers():
    amd, arm = (seccomp._program(machine) for machine in ("x86_64", "aarch64"))
    assert len(amd) - len(arm) == 16 * sum(arm is None for _, arm in seccomp._FEIGNED.values())
    assert amd != arm
