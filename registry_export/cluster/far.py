"""On a Dask worker: calls that came through the scheduler, run in children of a pool of its own.

A plugin holds the pool, so that its warm parents, its files and its walls end with the Dask worker.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import distributed
import msgspec
import psutil

from registry_export.cluster.cache import BlobCache
from registry_export.cluster.messages import Account, Parcel, Result, Task, failure_of, terms_here
from registry_export.cluster.parcels import Post, moved_in, moved_out, texts
from registry_export.discovery import discover_formats
from registry_export.errors import ChildError, ExportCancelledError, RegistryExportError, full_disk
from registry_export.format import Toolchain
from registry_export.isolation import ChildPool, Limits, Outcome
from registry_export.registry import Blobs
from registry_export.scratch import Scratch, remove_tree

PLUGIN = "registry-export"
"""What the plugin is called on a cluster; the first worker that comes brings it, for all of them."""

_PLAIN = Toolchain("plain", ())
_KEPT_SHARE = 0.25
"""Of the disk that is free when a Dask worker starts: what its cache of files may take."""
_LONGEST_TEXT = 256 * 1024
"""Characters of a result that go through the scheduler; longer ones go through the store."""
_IDLE_S, _LOOK_S = 600.0, 30.0
_SETUP_S = 30.0
_MOST_POSTS = 8
_STORES = "mlflow.store.artifact.artifact_repository_registry"
"""Seconds to import: they have passed before the first call comes."""

_log = logging.getLogger(__name__)


class House(distributed.WorkerPlugin):  # type: ignore[misc]
    """What one Dask worker keeps for the calls that it is sent."""

    name = PLUGIN
    idempotent = True  # a second worker of ours finds it there, and its running calls are not disturbed

    def setup(self, worker: distributed.Worker) -> None:
        """Make the pool; nothing is started before it is needed."""
        self._address = worker.address
        self._scratch = Scratch(Path(worker.local_directory))
        self._folder = self._scratch.path
        (self._folder / "cache").mkdir()
        (self._folder / "rooms").mkdir()
        most = int(psutil.disk_usage(str(self._folder)).free * _KEPT_SHARE)
        self._cache = BlobCache(self._folder / "cache", most)
        self._pool = ChildPool()
        self._numbers = itertools.count()
        self._posts: dict[str, Post] = {}
        self._lock = threading.Lock()
        self._own = _toolchains()
        self._closed = threading.Event()
        threading.Thread(target=self._keep_house, name="registry-export-house", daemon=True).start()

    def teardown(self, worker: distributed.Worker) -> None:  # noqa: ARG002
        """End the children and remove the files."""
        self._closed.set()
        self._pool.close()
        self._scratch.remove()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def _keep_house(self) -> None:
        importlib.import_module(_STORES)
        while not self._closed.wait(_LOOK_S):
            self._pool.stop_idle(_IDLE_S)

    @cached_property
    def account(self) -> Account:
        """Say what holds here; the walls are those that stand around a child."""
        return Account(terms_here(self._pool.walls(_PLAIN)), Limits().memory)

    def warm(self, toolchains: list[Toolchain]) -> None:
        """Start warm parents in the background."""
        self._pool.warm(map(self._toolchain, toolchains))

    def run(self, task: Task, given_up: Callable[[], bool]) -> str:
        """Run a call and return the text of its result.

        Raises:
            Reschedule: This Dask worker is being closed: another one should do it.
        """
        post = self._post(task.store)
        refusal = task.terms.broken_by(self.account.terms)
        if refusal:
            result = Result(self._address, refusal=refusal)
        else:
            try:
                outcome, made = self._outcome(task, post, given_up)
                result = Result(self._address, outcome, made)
            except ExportCancelledError as error:
                if self._closed.is_set() and not given_up():
                    raise distributed.Reschedule from error
                result = Result(self._address, failure=failure_of(error))
            except RegistryExportError as error:
                result = Result(self._address, failure=failure_of(error))
            except OSError as error:
                told = full_disk(error) or ChildError(f"The Dask worker {self._address} failed: {error}.")
                result = Result(self._address, failure=failure_of(told))
        return self._text(result, post)

    def _post(self, store: str) -> Post:
        """Return who knows what of a store's content is there already: one for each of the last exports."""
        with self._lock:
            post = self._posts.pop(store, None) or Post(Blobs(store, os.environ.get("MLFLOW_TRACKING_URI", "")))
            self._posts[store] = post
            while len(self._posts) > _MOST_POSTS:
                del self._posts[next(iter(self._posts))]
            return post

    def _text(self, result: Result, post: Post) -> str:
        text = msgspec.json.encode(result)
        if len(text) <= _LONGEST_TEXT:
            return text.decode()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            letter = Path(folder, "letter")
            letter.write_bytes(text)
            try:
                sent = post.send([letter]).files[0]
            except RegistryExportError as error:
                return msgspec.json.encode(Result(self._address, failure=failure_of(error))).decode()
        return msgspec.json.encode(Result(self._address, made=Parcel((sent,)), letter=sent.sha256)).decode()

    def _outcome(self, task: Task, post: Post, given_up: Callable[[], bool]) -> tuple[Outcome, Parcel]:
        room = Path(tempfile.mkdtemp(prefix=f"{next(self._numbers)}-", dir=self._folder / "rooms"))
        try:
            own = (task.work, *task.writes)
            lent = self._cache.furnish(task.parcel, room, own, post.fetch)
            work, *writes = (Path(f"{room}{path}") for path in own)
            try:
                outcome = self._pool.call(
                    self._toolchain(task.toolchain),
                    task.function,
                    moved_in(task.arguments, str(room), (*own, *task.reads)),
                    work,
                    self._limits(task.limits),
                    [Path(f"{room}{path}") for path in task.reads],
                    writes,
                    given_up=given_up,
                )
            except RegistryExportError as error:
                raise _without(error, str(room)) from error.__cause__
            finally:
                lent.take_back()
            made = post.send([*writes, *_spoken_of(outcome.value, work)], str(room))
            told = moved_out([outcome.value, outcome.warnings], str(room))
            return replace(outcome, value=told[0], warnings=tuple(told[1])), made
        finally:
            remove_tree(room)

    def _limits(self, asked: Limits) -> Limits:
        """Take no more memory than this machine has for a child, whatever the other one would."""
        return replace(asked, memory_bytes=min(asked.memory_bytes or Limits().memory, Limits().memory))

    def _toolchain(self, asked: Toolchain) -> Toolchain:
        """Return this machine's own toolchain of that name: which modules there are differs between systems."""
        return self._own.get(asked.name, asked)


def _spoken_of(value: object, work: Path) -> list[Path]:
    """List what an answer speaks of in a call's work folder; what else is there is nobody's any more."""
    named = (Path(text) for text in texts(value) if text.startswith(f"{work}/") and "\0" not in text)
    return [path for path in named if ".." not in path.parts and path.exists()]


def _without(error: RegistryExportError, room: str) -> RegistryExportError:
    return type(error)(error.message.replace(room, ""), remedy=error.remedy, step=error.step)


def _toolchains() -> dict[str, Toolchain]:
    """Return the toolchains of the formats that are installed here; none of which there are two by one name."""
    found: dict[str, list[Toolchain]] = {}
    for format_ in discover_formats().values():
        for toolchain in (format_.toolchain, *(edge.toolchain for edge in format_.conversions)):
            known = found.setdefault(toolchain.name, [])
            if toolchain not in known:
                known.append(toolchain)
    return {name: known[0] for name, known in found.items() if len(known) == 1}


def run(text: str) -> str:
    """Run a `Task`, as a task of Dask's; returns a `Result`."""
    worker = distributed.get_worker()
    key = worker.get_current_task()

    def given_up() -> bool:
        # Whoever asked has cancelled it, or is gone: Dask cannot end a running function, and only marks its task.
        state = worker.state.tasks.get(key)
        return state is None or state.state == "cancelled"

    return _house(worker).run(msgspec.json.decode(text, type=Task), given_up)


async def describe(dask_worker: distributed.Worker) -> str:
    """Return the `Account` of a Dask worker, beside its event loop."""
    account = await asyncio.to_thread(lambda: _house(dask_worker).account)
    return msgspec.json.encode(account).decode()


async def warm(text: str, dask_worker: distributed.Worker) -> None:
    """Start the warm parents of toolchains on a Dask worker, in the background."""
    toolchains = msgspec.json.decode(text, type=list[Toolchain])
    await asyncio.to_thread(lambda: _house(dask_worker).warm(toolchains))


def _house(worker: distributed.Worker) -> House:
    """Return the plugin; a worker that has just joined may still be setting it up."""
    until = time.monotonic() + _SETUP_S
    while time.monotonic() < until:
        house = worker.plugins.get(PLUGIN)
        if isinstance(house, House) and hasattr(house, "_own"):
            return house
        time.sleep(0.05)
    raise ChildError(f"The Dask worker {worker.address} has not set up the plugin {PLUGIN}.")
