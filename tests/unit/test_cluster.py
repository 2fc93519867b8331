"""What crosses the border to a cluster, and who may have a step; a real cluster is in `tests/integration`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from registry_export.cluster.cache import BlobCache
from registry_export.cluster.messages import Account, Failure, Parcel, SentFile, Task, Terms, failure_of, raised
from registry_export.cluster.parcels import Post, moved_in, moved_out
from registry_export.cluster.roster import DaskWorker, Roster
from registry_export.cluster.store import Store
from registry_export.discovery import discover_formats
from registry_export.errors import (
    ChildCrashedError,
    ClusterError,
    ConfigurationError,
    ConversionError,
    RuntimeAbsentError,
    UnsupportedModelError,
)
from registry_export.isolation import Limits
from registry_export.manifest import sha256_of
from registry_export.registry import Blobs
from registry_export.settings import Settings
from registry_export.worker.places import open_pool

HERE = Terms({"onnx": "1.20", "numpy": "2.2"}, "Linux x86_64", ("landlock",))


@pytest.fixture
def post(tmp_path):
    return Post(Blobs((tmp_path / "store").as_uri()))


@pytest.fixture
def granted(tmp_path):
    """A folder with what a checkpoint may have in it."""
    folder = tmp_path / "granted"
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "weights").write_bytes(b"weights")
    (folder / "deep" / "same").write_bytes(b"weights")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    return folder


def test_files_arrive_as_they_were_and_each_content_is_stored_once(post, granted, tmp_path):
    parcel = post.send([granted])
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "cache").mkdir()
    BlobCache(tmp_path / "cache", 1 << 20).furnish(parcel, room, (), post.fetch)
    there = Path(f"{room}{granted}")
    assert (there / "weights").read_bytes() == (there / "deep" / "same").read_bytes() == b"weights"
    assert (there / "deep" / "empty").is_dir()
    assert not (there / "__pycache__").exists()
    assert len(list((tmp_path / "store").iterdir())) == 1


class Slow(Blobs):
    """A real store that takes its time, and counts."""

    def __init__(self, uri):
        super().__init__(uri)
        self.puts = []

    def put(self, path, name):
        self.puts.append(name)
        time.sleep(0.2)
        super().put(path, name)


def test_a_file_is_written_once_however_many_send_it_and_not_by_whoever_has_fetched_it(granted, tmp_path):
    store = Slow((tmp_path / "store").as_uri())
    post = Post(store)
    with ThreadPoolExecutor(4) as executor:
        parcels = list(executor.map(lambda _: post.send([granted / "weights"]), range(4)))
    assert len(store.puts) == 1, "whoever fetches it meanwhile would get half of it"
    other = Slow(store.uri)
    there = Post(other)
    there.fetch(parcels[0].files[0], tmp_path / "fetched")
    there.send([tmp_path / "fetched"])
    assert other.puts == []


def test_a_link_to_what_was_not_granted_is_not_sent(post, granted, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")
    (granted / "leads_out").symlink_to(secret)
    (granted / "leads_in").symlink_to(granted / "weights")
    sent = {file.path.rpartition("/")[2] for file in post.send([granted]).files}
    assert sent == {"weights", "same", "leads_in"}


def test_a_file_that_was_changed_in_the_store_is_refused(post, granted, tmp_path):
    sent = post.send([granted / "weights"]).files[0]
    (tmp_path / "store" / sent.sha256).write_bytes(b"forged!")
    with pytest.raises(ClusterError, match=sent.sha256):
        post.fetch(sent, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "{own}/../escaped", "{own}-beside/file", "relative"])
def test_an_answer_writes_nowhere_but_in_the_folders_of_its_call(post, granted, tmp_path, path):
    sent = post.send([granted / "weights"]).files[0]
    own = tmp_path / "own"
    made = Parcel((replace(sent, path=path.format(own=own)),))
    with pytest.raises(ClusterError, match="not the call's own"):
        post.fetch_all(made, [own], 1 << 20)
    with pytest.raises(ClusterError, match="not the call's own"):
        post.fetch_all(Parcel((), (path.format(own=own),)), [own], 1 << 20)


def test_an_answer_is_not_larger_than_its_call_may_write(post, tmp_path):
    with pytest.raises(ClusterError, match="more files than"):
        post.fetch_all(Parcel((SentFile(f"{tmp_path}/a", "0" * 64, 11),)), [tmp_path], 10)


def test_paths_of_a_call_are_moved_into_its_room_and_other_texts_are_left():
    granted = ("/jobs/in", "/rules/code.py")
    asked = {"path": "/jobs/in/a.bin", "search": ["/rules"], "note": "/jobs/inside", "root": "/", "/jobs/in": 3}
    moved = moved_in(asked, "/room", granted)
    assert moved == {
        "path": "/room/jobs/in/a.bin",
        "search": ["/room/rules"],
        "note": "/jobs/inside",
        "root": "/",
        "/room/jobs/in": 3,
    }
    assert moved_out(moved, "/room") == asked
    assert moved_out({"told": "cannot read /room/jobs/in/a.bin."}, "/room") == {"told": "cannot read /jobs/in/a.bin."}


class Fetching:
    """Writes files in place of a store, and counts."""

    def __init__(self):
        self.count = 0

    def __call__(self, sent, path):
        self.count += 1
        path.unlink(missing_ok=True)
        path.write_bytes(sent.path.encode())


def lend(cache, room, name, fetch, copied=()):
    room.mkdir()
    path = f"/in/{name}"
    return cache.furnish(Parcel((SentFile(path, name, len(path)),)), room, copied, fetch), room / "in" / name


def test_a_file_is_fetched_once_and_again_when_somebody_has_written_into_it(tmp_path):
    (tmp_path / "cache").mkdir()
    cache, fetch = BlobCache(tmp_path / "cache", 1 << 20), Fetching()
    lent, first = lend(cache, tmp_path / "a", "blob", fetch)
    other, second = lend(cache, tmp_path / "b", "blob", fetch)
    other.take_back()
    assert (fetch.count, second.exists()) == (1, False)
    first.chmod(0o644)
    first.write_bytes(b"spoiled!")
    with pytest.raises(ConversionError, match="changed its own input"):
        lent.take_back()
    _, third = lend(cache, tmp_path / "c", "blob", fetch)
    assert third.read_bytes() == b"/in/blob"
    assert fetch.count == 2


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def named_by_content(name):
    content = f"/in/{name}".encode()
    return hashlib.sha256(content).hexdigest(), content


def lend_whole(cache, room, fetch):
    """As `lend`, of a file whose name is its digest in truth."""
    room.mkdir()
    digest, content = named_by_content("blob")
    return cache.furnish(Parcel((SentFile("/in/blob", digest, len(content)),)), room, (), fetch), room / "in" / "blob"


def forged(path):
    """Write as many other bytes into a file, and set its times to what they were."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"x" * before.st_size)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_who_writes_into_a_file_and_sets_its_time_back_is_found_out(tmp_path):
    (tmp_path / "cache").mkdir()
    cache, fetch = BlobCache(tmp_path / "cache", 1 << 20), Fetching()
    lent, first = lend_whole(cache, tmp_path / "a", fetch)
    other, _ = lend_whole(cache, tmp_path / "b", fetch)
    forged(first)
    with pytest.raises(ConversionError, match="changed its own input"):
        lent.take_back()
    with pytest.raises(ConversionError, match="changed its own input"):
        other.take_back()
    _, again = lend_whole(cache, tmp_path / "c", fetch)
    assert again.read_bytes() == b"/in/blob"
    forged(again)  # and nobody looks before it is lent again
    _, last = lend_whole(cache, tmp_path / "d", fetch)
    assert last.read_bytes() == b"/in/blob"
    assert fetch.count == 3


def test_a_file_is_read_again_only_where_somebody_else_has_touched_it(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("registry_export.cluster.cache.sha256_of", lambda path: read.append(path) or sha256_of(path))
    (tmp_path / "cache").mkdir()
    cache, fetch = BlobCache(tmp_path / "cache", 1 << 20), Fetching()
    for number in range(3):
        lent, place = lend_whole(cache, tmp_path / str(number), fetch)
        lent.take_back()
        assert not place.exists()
    assert (fetch.count, read) == (1, [])
    lent, place = lend_whole(cache, tmp_path / "linked", fetch)
    os.link(place, tmp_path / "linked" / "made")  # as converters take weights over
    lent.take_back()
    (tmp_path / "linked" / "made").unlink()
    lend_whole(cache, tmp_path / "last", fetch)
    assert (fetch.count, len(read)) == (1, 2)


def test_a_call_writes_into_copies_of_its_own(tmp_path):
    (tmp_path / "cache").mkdir()
    cache, fetch = BlobCache(tmp_path / "cache", 1 << 20), Fetching()
    lent, own = lend(cache, tmp_path / "a", "blob", fetch, copied=("/in",))
    own.write_bytes(b"mine")
    lent.take_back()
    _, other = lend(cache, tmp_path / "b", "blob", fetch)
    assert other.read_bytes() == b"/in/blob"


def test_the_cache_is_bounded_and_forgets_what_was_not_used_for_longest(tmp_path):
    (tmp_path / "cache").mkdir()
    cache, fetch = BlobCache(tmp_path / "cache", 2 * len("/in/x")), Fetching()
    _, kept = lend(cache, tmp_path / "1", "a", fetch)
    lend(cache, tmp_path / "2", "b", fetch)
    lend(cache, tmp_path / "3", "a", fetch)
    lend(cache, tmp_path / "4", "c", fetch)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"a", "c"}
    assert kept.read_bytes() == b"/in/a"


@pytest.mark.parametrize(
    "error",
    [
        ChildCrashedError("It crashed."),
        RuntimeAbsentError("No GPU.", remedy="Plug one in."),
        UnsupportedModelError("No Foo.", step="a -> b"),
    ],
)
def test_errors_come_home_as_what_they_were(error):
    error.__cause__ = ValueError("inside")
    home = raised(msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure))
    assert (type(home), str(home), home.step) == (type(error), str(error), error.step)
    assert "inside" in str(home.__cause__)


def test_an_error_that_is_none_of_ours_comes_home_as_a_childs():
    assert "SystemExit" not in type(raised(Failure("SystemExit", "no"))).__name__
    assert str(raised(Failure("__builtins__", "no"))) == "no"


def test_every_toolchain_can_be_sent():
    for format_ in discover_formats().values():
        for toolchain in (format_.toolchain, *(edge.toolchain for edge in format_.conversions)):
            task = Task("s3://b", HERE, toolchain, "a:b", {}, "/w", (), (), Limits(), Parcel())
            assert msgspec.json.decode(msgspec.json.encode(task), type=Task).toolchain == toolchain


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (HERE, ""),
        (replace(HERE, tools={"onnx": "1.20"}), ""),
        (replace(HERE, tools={**HERE.tools, "tensorrt": "10"}), ""),
        (replace(HERE, tools={"onnx": "1.21"}), "onnx 1.21 in place of 1.20"),
        (replace(HERE, machine="Darwin arm64"), "Darwin arm64"),
        (replace(HERE, walls=()), "landlock"),
    ],
)
def test_a_machine_is_refused_for_what_the_report_would_say_wrongly(terms, why):
    assert why in HERE.broken_by(terms)
    assert bool(HERE.broken_by(terms)) == bool(why)


def roster(**workers):
    """A roster of Dask workers by name: what each offers, and the terms that hold there."""
    there = [DaskWorker(f"tcp://{name}", name, 1, resources) for name, (resources, _) in workers.items()]
    accounts = {f"tcp://{name}": Account(terms, 8) for name, (_, terms) in workers.items()}
    return Roster(lambda: there, lambda addresses: {address: accounts[address] for address in addresses}, HERE)


MAC = Terms({"onnx": "1.20"}, "Darwin arm64")


def test_memory_is_asked_for_where_it_is_offered_and_never_more_than_anybody_has():
    place = roster(small=({"memory": 10}, HERE), large=({"memory": 40}, HERE)).place("", 100, "")
    assert place.addresses == ["tcp://large"]
    assert place.resources == {"memory": 40}
    assert roster(plain=({}, HERE)).place("", 100, "").resources == {}


def test_a_resource_is_asked_for_where_somebody_has_it_and_not_waited_for_where_nobody_has():
    workers = {"plain": ({"memory": 9}, HERE), "gpu": ({"memory": 9, "cuda": 1}, HERE)}
    place = roster(**workers).place("cuda", 1, "")
    assert place.addresses == ["tcp://gpu"]
    assert place.resources == {"cuda": 1, "memory": 1}
    del workers["gpu"]
    assert roster(**workers).place("cuda", 1, "").resources == {"memory": 1}


def test_a_mac_runs_what_needs_macos_and_nothing_else():
    mixed = roster(linux=({}, HERE), mac=({"macos": 1}, MAC))
    assert mixed.place("macos", 1, "").addresses == ["tcp://mac"]
    assert mixed.place("macos", 1, "").terms.machine == ""
    place = mixed.place("", 1, "")
    assert place.addresses == ["tcp://linux"]
    assert place.named, "Dask may give the step to the Mac"


def test_a_step_is_not_sent_to_who_has_other_versions():
    old = replace(HERE, tools={"onnx": "1.19"})
    mixed = roster(old=({"memory": 9}, old), new=({"memory": 9}, HERE))
    assert mixed.place("", 1, "").addresses == ["tcp://new"]
    assert mixed.place("", 1, "").named
    with pytest.raises(ClusterError, match=r"old: it has onnx 1\.19 in place of 1\.20"):
        roster(old=({"memory": 9}, old)).place("", 1, "")


def test_a_place_is_given_up_when_nobody_is_there_for_it():
    workers = roster(a=({}, HERE), mac=({"macos": 1}, MAC))
    place = workers.place("", 1, "")
    assert workers.serves(place)
    workers.present = lambda: [DaskWorker("tcp://b", "b", 1, {})]
    workers.ask = lambda addresses: {"tcp://b": Account(HERE, 8)}
    assert not workers.serves(place), "it was sent to `a` by name, which is gone"
    assert workers.serves(replace(place, named=False))


def test_what_killed_workers_have_left_is_removed_and_what_others_use_is_not(tmp_path):
    today = f"{datetime.now(UTC):%Y-%m-%d}-0123456789ab"
    for name in ("2020-01-02-0123456789ab", today, "2020-01-02-models", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    store = Store(tmp_path.as_uri(), "")
    for thread in threading.enumerate():
        if thread.name == "registry-export-sweep":
            thread.join(30)
    assert {path.name for path in tmp_path.iterdir()} == {today, "2020-01-02-models", "other"}
    (tmp_path / "other" / "sent").write_bytes(b"sent")
    store.post.send([tmp_path / "other" / "sent"])
    assert len(list(tmp_path.iterdir())) == 4
    store.clear()
    assert {path.name for path in tmp_path.iterdir()} == {today, "2020-01-02-models", "other"}
    (tmp_path / "2020-01-02-0123456789ab").mkdir()
    store.sweep()  # as a worker does now and then
    until(lambda: not (tmp_path / "2020-01-02-0123456789ab").exists())


def test_the_folder_of_an_export_is_not_as_old_as_its_worker(tmp_path, monkeypatch):
    monkeypatch.setattr("registry_export.cluster.store._day", lambda _: "2020-01-02")
    store = Store(tmp_path.as_uri(), "")
    monkeypatch.undo()
    assert "/2020-01-02-" in store.post.blobs.uri
    store.clear()
    assert f"/{datetime.now(UTC):%Y-%m-%d}-" in store.post.blobs.uri


def test_a_cluster_needs_a_store():
    settings = Settings.from_environment({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    with pytest.raises(ConfigurationError, match="REGISTRY_EXPORT_BLOBS=s3://"):
        open_pool(settings, "tcp://127.0.0.1:1")


def test_a_cluster_without_dask_says_what_to_install(monkeypatch):
    settings = Settings.from_environment({"REGISTRY_EXPORT_BLOBS": "s3://bucket/steps"})
    for name in [name for name in sys.modules if name.startswith("registry_export.cluster.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match=r"registry-export\[dask\]"):
        open_pool(settings, "tcp://127.0.0.1:1")


def test_a_worker_without_a_cluster_imports_nothing_of_dask():
    code = "import sys; from registry_export.worker.loop import run_worker; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_digest_of_a_parcel_is_the_files(post, granted):
    sent = post.send([granted / "weights"]).files[0]
    assert (sent.sha256, sent.size_bytes) == (sha256_of(granted / "weights"), 7)
