"""Checkpoints that attack whoever loads them: each is contained, and the next job is fine."""

from __future__ import annotations

import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from registry_export.bench import Bench, run_reference
from registry_export.discovery import discover_formats
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import (
    ChildError,
    ChildOutOfMemoryError,
    ChildTimeoutError,
    RegistryExportError,
)
from registry_export.inference import Origin
from registry_export.isolation import ChildPool, Limits
from registry_export.isolation.sandbox import left_open
from registry_export.scratch import remove_tree
from registry_export.tensors import write_tensors
from tests.hostile.attacks import ATTACKS, Gadget

SECRET = "the-key-of-the-house"
FORMATS = discover_formats()
TORCH = FORMATS["pytorch"].toolchain
SECONDS, MEMORY, DISK = 12.0, 1300 * 1024**2, 512 * 1024**2
ENDS = {
    "fork_without_end": (ChildError, "processes and was killed|memory|temporarily unavailable"),
    "eat_all_memory": (RegistryExportError, "memory limit|NoneType"),
    "eat_memory_that_is_shared": (ChildOutOfMemoryError, "memory limit"),
    "spin": (ChildTimeoutError, "did not end within"),
    "fill_the_disk": (ChildError, "files are allowed"),
    "write_one_file_without_end": (RegistryExportError, "NoneType|files are allowed"),
    "print_without_end": (RegistryExportError, "SIGXFSZ|File too large|files are allowed"),
    "make_folders_without_end": (ChildError, "64 deep|NoneType"),
    "say_that_the_lease_is_lost": (ChildError, "StaleLeaseError: lost"),
    "answer_in_the_childs_place": (ChildError, "not its own"),
    "answer_with_a_mountain": (ChildError, "larger than"),
    "answer_with_a_deep_nest": (ChildError, "cannot be read"),
    "kill_the_warm_parent": (RegistryExportError, ""),
}
"""How those end that hurt in place of winning something; after a refusal the attack goes on as no model at all."""


class Listener:
    """Somebody outside: whatever reaches it has got out."""

    def __init__(self, family: int, kind: int, address: object) -> None:
        self.socket = socket.socket(family, kind)
        self.socket.bind(address)
        if kind == socket.SOCK_STREAM:
            self.socket.listen()
        self.heard: list[bytes] = []
        threading.Thread(target=self._listen, args=(kind,), daemon=True).start()

    def _listen(self, kind: int) -> None:
        while True:
            try:
                self.heard.append(
                    self.socket.recv(100) if kind == socket.SOCK_DGRAM else self.socket.accept()[0].recv(100)
                )
            except OSError:
                return


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    home, jobs, outside = root / "home", root / "jobs", root / "outside"
    for folder in (home / ".aws", jobs / "other", outside):
        folder.mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(SECRET)
    (jobs / "other" / "model.pth").write_text(SECRET)
    write_tensors(jobs / "other", {"x": np.ones(3, np.float32)})
    with sqlite3.connect(root / "ledger.db") as ledger:
        ledger.execute("create table secrets (secret text)")
        ledger.execute("insert into secrets values (?)", (SECRET,))
    abstract = f"registry-export-{os.getpid()}"
    listeners = [
        Listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        Listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        Listener(socket.AF_UNIX, socket.SOCK_STREAM, str(root / "database")),
        Listener(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
        Listener(socket.AF_UNIX, socket.SOCK_DGRAM, str(root / "log")),
    ]
    sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield {
        "secret": SECRET,
        "home": str(home),
        "jobs": str(jobs),
        "other_job": str(jobs / "other"),
        "outside": str(outside),
        "ledger": str(root / "ledger.db"),
        "port": listeners[0].socket.getsockname()[1],
        "udp_port": listeners[1].socket.getsockname()[1],
        "unix_socket": str(root / "database"),
        "datagram_socket": str(root / "log"),
        "abstract_socket": abstract,
        "supervisor": os.getpid(),
        "sibling": sibling.pid,
        "nobody": 65534 if os.getuid() == 0 else 0,
        "listeners": listeners,
    }
    sibling.kill()
    sibling.wait()
    for listener in listeners:
        listener.socket.close()


@pytest.fixture(scope="module")
def pool():
    environment = {"PYTHONPATH": str(Path.cwd()), "REGISTRY_EXPORT_TEST_SECRET": SECRET}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    with ChildPool(Limits(SECONDS, MEMORY, DISK, processes=64)) as pool:
        assert not left_open(pool.walls(TORCH)), "this machine cannot show what the suite asserts"
        yield pool
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def state(world):
    """What no attack may change: files outside, who was heard from, who is alive."""
    files = sorted((str(path), path.stat().st_size) for path in Path(world["outside"]).rglob("*"))
    ledger = Path(world["ledger"]).read_bytes(), Path(world["ledger"]).stat().st_mode
    packages = sorted(path.name for path in Path(np.__file__).parents[1].glob("*.pth"))
    package = Path(np.__file__).read_bytes()
    heard = [list(listener.heard) for listener in world["listeners"]]
    limits = resource.getrlimit(resource.RLIMIT_CPU), os.getpriority(os.PRIO_PROCESS, 0)
    return files, ledger, packages, package, heard, limits, psutil.pid_exists(world["sibling"])


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_checkpoint_wins_nothing_and_the_next_job_is_fine(world, pool, tmp_path, name):
    import torch

    job = Path(world["jobs"], name)
    (job / "source").mkdir(parents=True)
    checkpoint = job / "source" / "model.pth"
    known = {key: value for key, value in world.items() if key != "listeners"}
    known |= {"checkpoint": str(checkpoint), "pool": str(pool._parents.folder)}
    torch.save(Gadget(name, known), checkpoint)
    write_tensors(job / "sample", {"x": np.ones((2, 3), np.float32)})
    before, bytes_before = state(world), checkpoint.read_bytes()
    interface = Interface((TensorSpec("x", "float32", ("batch", 3)),))
    bench = Bench(FORMATS, pool, job)
    kind, message = ENDS.get(name, (RegistryExportError, ""))
    with pytest.raises(kind, match=message or None):
        run_reference(bench, Origin("pytorch", str(checkpoint), interface), str(job / "sample"), "samples", ())
    loot = job / "reference" / "loot.json"
    assert loot.exists() or name in ENDS, "the attack was not made at all"
    if loot.exists():
        said = json.loads(loot.read_text())
        assert not said["won"], said
        assert SECRET not in said["refused"]
    if name == "live_on_after_the_call":
        alive = job / "reference" / "alive"
        lived = alive.read_text() if alive.exists() else ""
        time.sleep(0.5)
        assert lived == (alive.read_text() if alive.exists() else "")
    assert state(world) == before
    assert checkpoint.read_bytes() == bytes_before
    assert pool.call(TORCH, "tests.unit.child_functions:echo", {"still": "fine"}, tmp_path).value == {"still": "fine"}
    remove_tree(job)  # what some leave is too deep for others to remove
    assert not job.exists()


def test_there_are_as_many_attacks_as_the_documents_say():
    assert len(ATTACKS) >= 25
    assert set(ENDS) <= set(ATTACKS)


def test_the_attacks_win_where_no_wall_stands(world, tmp_path):
    """The suite shows something only if its attacks are real: without walls, those that need no powers win."""
    names = ["read_cloud_credentials", "read_the_ledger", "read_another_jobs_files", "connect_out", "bind_a_port"]
    known = {key: value for key, value in world.items() if key != "listeners"}
    won = [ATTACKS[name](known) for name in names]
    assert all(won), dict(zip(names, won, strict=True))
    for listener in world["listeners"]:
        listener.heard.clear()
