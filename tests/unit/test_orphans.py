"""A supervisor that is killed takes its warm parents and children with it, whatever they are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.worker import ended, until

SUPERVISOR = """
import sys
from pathlib import Path
from registry_export.format import Toolchain
from registry_export.isolation import ChildPool
exercise, function, work = sys.argv[1:]
pool = ChildPool()
pool.call(Toolchain("plain", ("json",), exercise=exercise), function, {}, Path(work))
"""
HERE = "tests.unit.child_functions:"


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """Start one that makes one call; returns its process."""
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started = []

    def start(exercise="", function="echo"):
        (tmp_path / "work").mkdir()
        arguments = [exercise and HERE + exercise, HERE + function, str(tmp_path / "work")]
        started.append(psutil.Popen([sys.executable, "-c", SUPERVISOR, *arguments]))
        return started[-1]

    yield start
    for process in started:
        for one in (*process.children(recursive=True), process) if process.is_running() else ():
            one.kill()


def kill(supervisor):
    family = supervisor.children(recursive=True)
    assert family
    supervisor.kill()
    supervisor.wait()
    until(lambda: ended(family), lambda: f"the end of {family}", 5)


def test_a_child_at_work_ends_with_what_it_has_started(supervisor, tmp_path):
    process = supervisor(function="hang_with_others")
    until(lambda: (tmp_path / "work" / "others").exists())
    others = [psutil.Process(int(pid)) for pid in (tmp_path / "work" / "others").read_text().split()]
    kill(process)
    until(lambda: ended(others), lambda: f"the end of {others}", 5)


def test_a_parent_in_the_middle_of_its_start_ends(supervisor):
    process = supervisor(exercise="hang_in_exercise")
    until(lambda: process.children(recursive=True))
    kill(process)


def test_a_parent_whose_supervisor_was_gone_before_it_looked_does_not_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    command = [sys.executable, "-P", "-m", "registry_export.isolation.parent", "0", "{}"]
    reader, writer = os.pipe()
    os.close(writer)
    process = subprocess.run(command, stdin=reader, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    os.close(reader)
    assert process.returncode == 1
    assert "The supervisor is gone." in process.stderr


def test_a_stop_that_is_sent_to_all_processes_is_the_supervisors_to_heed(supervisor, tmp_path):
    process = supervisor(function="hang_with_others")
    until(lambda: (tmp_path / "work" / "others").exists())
    (parent,) = process.children()
    parent.send_signal(signal.SIGTERM)
    with pytest.raises(psutil.TimeoutExpired):
        parent.wait(0.5)
    kill(process)
