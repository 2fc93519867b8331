"""Temporary folders: in use they stay, and what a killed process has left is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry_export import scratch as scratches
from registry_export.errors import DiskFullError, full_disk
from registry_export.scratch import Scratch, remove_held, sweep

HOLDING = """
import sys, time
from pathlib import Path
from registry_export.scratch import Scratch
folder = Scratch(Path(sys.argv[1])).path
(folder / "weights").write_bytes(b"x" * 1000)
deep = folder
for _ in range(1200):
    deep = deep / "d"
    try:
        deep.mkdir()
    except OSError:
        break
print(folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder in `tmp_path`, with the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    sweep(tmp_path)  # pytest cannot remove what is so deep


def test_folders_in_use_stay_whoever_uses_them(tmp_path, holder):
    process, theirs = holder
    with Scratch(tmp_path) as ours:
        assert sweep(tmp_path) == 0
        assert ours.is_dir()
        os.kill(process.pid, signal.SIGSTOP)
        assert sweep(tmp_path) == 0
        os.kill(process.pid, signal.SIGCONT)
        assert (theirs / "weights").exists()


def test_what_a_killed_process_has_left_is_removed_however_deep(tmp_path, holder):
    process, theirs = holder
    process.kill()
    process.wait()
    assert theirs.exists()
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_only_looks_like_one_of_ours_stays(tmp_path):
    kept = tmp_path / "registry-export-somebody"
    kept.mkdir()
    (kept / "thesis.txt").write_text("x")
    (tmp_path / "registry-export-elsewhr").symlink_to(kept)
    longer = tmp_path / "registry-export-demo-abcd1234"
    longer.mkdir()
    assert sweep(tmp_path) == 0
    assert (kept / "thesis.txt").exists()
    assert longer.exists()


def test_what_was_killed_before_it_had_its_lock_is_removed(tmp_path):
    (tmp_path / "registry-export-abcd1234").mkdir()
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_what_was_killed_while_it_removed_its_folder_is_removed_by_the_next_sweep(tmp_path, monkeypatch):
    scratch = Scratch(tmp_path)
    (scratch.path / "inner").mkdir()

    def interrupted(folder):
        for file in [entry for entry in folder.iterdir() if entry.is_file()]:
            file.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(scratches, "remove_tree", interrupted)
        scratch.remove()
    assert list(tmp_path.iterdir())
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_is_gone_when_its_block_ends_and_those_held_when_the_process_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(scratches, "_held", set())  # this process goes on, and other tests with what it holds
    with Scratch(tmp_path, hidden=True) as folder:
        assert folder.parent.name.startswith(".registry-export-")
    assert not list(tmp_path.iterdir())
    held = Scratch(tmp_path)
    remove_held()
    assert not list(tmp_path.iterdir())
    held.remove()


def test_no_sweep_removes_a_folder_that_is_being_made(tmp_path):
    made, ended = [], threading.Event()

    def sweep_all_the_time():
        while not ended.is_set():
            sweep(tmp_path)

    sweepers = [threading.Thread(target=sweep_all_the_time) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for _ in range(300):
            made.append(Scratch(tmp_path))
            (made[-1].path / "file").write_text("x")
    finally:
        ended.set()
        for sweeper in sweepers:
            sweeper.join()
    assert all((scratch.path / "file").exists() for scratch in made)
    assert len(list(tmp_path.iterdir())) == 300
    for scratch in made:
        scratch.remove()


def test_a_disk_that_is_full_costs_no_folder(tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    for place, name in ((Path, "mkdir"), (os, "mkdir")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(DiskFullError, match="No space is left"):
                Scratch(tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_for_another_reason_says_which(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match="Too many open files") as told:
        Scratch(tmp_path)
    assert full_disk(told.value) is None
    assert not list(tmp_path.iterdir())


def test_an_exception_that_is_its_own_cause_is_looked_through_once():
    error = RuntimeError("x")
    error.__cause__ = error
    assert full_disk(error) is None
