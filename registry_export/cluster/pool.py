"""The supervisor's side of a cluster: calls sent out, waited for, and what they made brought home."""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from registry_export.cluster.link import Link
from registry_export.cluster.messages import Result, Task, raised, terms_here
from registry_export.cluster.parcels import Post
from registry_export.cluster.roster import DaskWorker, Place, Roster
from registry_export.cluster.store import Store
from registry_export.costs import StepCost
from registry_export.errors import (
    ChildError,
    ClusterError,
    ClusterUnavailableError,
    ExportCancelledError,
    RegistryExportError,
)
from registry_export.format import Toolchain
from registry_export.isolation import Limits, Outcome
from registry_export.latency import TIMED
from registry_export.scratch import Scratch

if TYPE_CHECKING:
    import distributed

_LOOK_S, _GLANCE_S = 2.0, 0.05
_GRACE_S = 60.0
"""How long a cluster without a worker that may have a step is waited for: a lost one may be coming back."""
_MOST_SENDINGS = 4
"""How often a step is sent out anew because those that it was sent to are gone, or refuse it."""
_UNKNOWN = StepCost(0.0, 1_000_000_000)

_log = logging.getLogger(__name__)


class ClusterPool:
    """Runs functions in children on the machines of a Dask cluster; see `ChildPool`, whose place it takes.

    Args:
        scheduler: The scheduler's address.
        store: Artifact URI of a folder that this process and every Dask worker may read and write.
        tracking_uri: The tracking server, which serves what begins with `mlflow-artifacts:`.
        limits: What a child may use; memory for which nothing is said is as much as its machine allows.
    """

    def __init__(self, scheduler: str, store: str, tracking_uri: str = "", limits: Limits | None = None) -> None:
        self.cancelled = threading.Event()
        self.killed: dict[str, int] = {}
        self._given = limits or Limits()
        self._link = Link(scheduler)
        self._roster = Roster(self._link.present, self._link.ask, terms_here())
        self._store = Store(store, tracking_uri)
        self._timed_at = ""

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def blobs_uri(self) -> str:
        """Where files go to Dask workers and back."""
        return self._store.uri

    def workers(self) -> tuple[DaskWorker, ...]:
        """Return the Dask workers that are there, those that get no steps too.

        Raises:
            ClusterUnavailableError: The scheduler does not answer.
        """
        return self._roster.workers()

    def try_store(self) -> None:
        """See that a file can be stored and fetched.

        Raises:
            ClusterError: It cannot; a ClusterUnavailableError where the store did not answer.
        """
        with Scratch() as folder:
            letter = folder / "letter"
            letter.write_text("registry-export")
            self._store.post.fetch(self._store.post.send([letter]).files[0], folder / "answer")

    @property
    def limits(self) -> Limits:
        """What a child may use where a call says nothing else; its memory is the largest machine's."""
        largest = max((w.account.memory for w in self._roster.of_our_kind() if w.account), default=None)
        return replace(self._given, memory_bytes=self._given.memory_bytes or largest)

    @property
    def cores(self) -> int:
        """How many steps the Dask workers take at a time; 1 while none is there."""
        return sum(worker.threads for worker in self._roster.workers() if not worker.unfit) or 1

    def available_bytes(self) -> int:
        """Return more than there is: memory is a resource of Dask's, which gives steps their places by it."""
        return sys.maxsize

    def call(
        self,
        toolchain: Toolchain,
        function: str,
        arguments: Mapping[str, Any],
        work: Path,
        limits: Limits | None = None,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
        expected: StepCost | None = None,
    ) -> Outcome:
        """Run a function in a fresh child of a Dask worker and wait for its answer.

        Args:
            toolchain: As for `ChildPool.call`; its `resource` chooses the Dask worker.
            function: As for `ChildPool.call`.
            arguments: As for `ChildPool.call`; paths in it lie below one of the following.
            work: A folder; of what is made in it, that comes home which the answer speaks of.
            limits: In place of the pool's.
            reads: What it may read.
            writes: Where else it may write; all of it comes home.
            expected: What it takes: memory that Dask keeps for it, and how urgent it is.

        Raises:
            ClusterUnavailableError: Scheduler, Dask workers or store are not there, or were lost.
            ClusterError: No Dask worker may have it, or its files cannot be brought to and fro.
            RegistryExportError: As for `ChildPool.call`; a step whose Dask workers ended one after another has crashed.
        """
        post, own = self._store.post, (work, *writes)
        task = Task(
            post.blobs.uri,
            self._roster.terms,
            toolchain,
            function,
            msgspec.to_builtins(arguments),
            str(work),
            tuple(map(str, reads)),
            tuple(map(str, writes)),
            limits or self._given,
            post.send((*own, *reads)),
        )
        result = self._whole(self._result(task, expected or _UNKNOWN), post)
        if result.failure is not None:
            raise raised(result.failure)
        if result.outcome is None:
            raise ClusterError(f"The Dask worker {result.where} has answered nothing.")
        post.fetch_all(result.made, own, self._given.disk(work))
        return result.outcome

    def _result(self, task: Task, expected: StepCost) -> Result:
        """Send a task out until a Dask worker has kept it to its end."""
        name = f"{task.function.rpartition(':')[2]}-{task.toolchain.name}"
        for _ in range(_MOST_SENDINGS):
            place = self._place(task.toolchain.resource, expected, self._timed_at if task.function == TIMED else "")
            text = msgspec.json.encode(replace(task, terms=place.terms)).decode()
            future = self._link.submit(text, place, f"{name}-{uuid.uuid4().hex}", int(expected.seconds))
            try:
                answer = self._await(future, place)
            finally:
                future.cancel() if not future.done() else future.release()
            if answer is None:
                continue
            result = msgspec.json.decode(answer, type=Result)
            if not result.refusal:
                if task.function == TIMED:
                    self._timed_at = result.where
                return result
            self._roster.forget(result.where)
        raise ClusterError(
            f"The step was sent out {_MOST_SENDINGS} times, and no Dask worker kept it to its end.",
            remedy="See the logs of the scheduler and of the Dask workers.",
        )

    def _place(self, resource: str, expected: StepCost, only: str) -> Place:
        """Wait until there is a Dask worker that may have a step."""
        until = time.monotonic() + _GRACE_S
        while True:
            place = self._roster.place(resource, expected.peak_bytes, only)
            if place.workers and not (only and resource and resource not in place.resources):
                return place
            if only:
                raise ChildError("The machine on which the source was timed cannot run it, so times would not compare.")
            if time.monotonic() > until:
                raise self._deserted()
            if self.cancelled.wait(_GLANCE_S * 10):
                raise ExportCancelledError("The export was stopped.")

    def _deserted(self) -> ClusterUnavailableError:
        return ClusterUnavailableError(
            f"No Dask worker is connected to the scheduler at {self._link.address}.",
            remedy="Start one: dask worker ADDRESS --resources memory=16e9",
        )

    def _await(self, future: distributed.Future, place: Place) -> str | None:
        """Wait for a task's end; None where nobody is there any more who may have it."""
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        seen = look = time.monotonic()
        while not ended.wait(_GLANCE_S):
            if self.cancelled.is_set():
                raise ExportCancelledError("The export was stopped.")
            now = time.monotonic()
            if now - look >= _LOOK_S:
                look = now
                if self._roster.serves(place):
                    seen = now
                elif place.named or now - seen > _GRACE_S:
                    return None
        return self._link.result(future)

    def _whole(self, result: Result, post: Post) -> Result:
        """Read a result that was too long for the scheduler."""
        if not result.letter:
            return result
        with Scratch() as folder:
            letter = folder / "letter"
            post.fetch(result.made.files[0], letter)
            return msgspec.json.decode(letter.read_bytes(), type=Result)

    def start(self, toolchain: Toolchain) -> None:
        """Do nothing: a Dask worker starts a warm parent when it has a call for it."""

    def runs(self, toolchain: Toolchain) -> bool:  # noqa: ARG002
        """Say that nothing is to be started here."""
        return True

    def parents(self) -> tuple[tuple[str, int], ...]:
        """Return none: they run on other machines."""
        return ()

    def check(self) -> None:
        """See that there is a Dask worker that may have steps.

        Raises:
            ClusterUnavailableError: Neither the scheduler nor a Dask worker is there.
            ClusterError: None of the Dask workers may have any.
        """
        if not self._roster.place("", 0, "").workers:
            raise self._deserted()

    def walls(self, toolchain: Toolchain) -> tuple[str, ...]:  # noqa: ARG002
        """Name the walls that stand around a checkpoint on every Dask worker that may have it.

        From now on, until `renew`, one without them gets no steps.

        Raises:
            ClusterUnavailableError: There is no Dask worker.
        """
        self._place("", _UNKNOWN, "")
        workers = [worker.account.terms.walls for worker in self._roster.of_our_kind() if worker.account]
        common = tuple(wall for wall in (workers[0] if workers else ()) if all(wall in walls for walls in workers))
        self._roster.terms = replace(self._roster.terms, walls=common)
        return common

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        """Start the parents of toolchains in the background, on every Dask worker that is there."""
        try:
            fit = [worker.address for worker in self._roster.of_our_kind()]
            self._link.warm(list(toolchains), fit)
        except RegistryExportError as error:
            _log.warning("Nothing was started ahead of its use: %s", error)

    def stop_idle(self, seconds: float) -> None:  # noqa: ARG002  Dask workers see to their own
        """Remove what the last export has left in the store."""
        self._store.clear()

    def sweep(self) -> None:
        """Begin to remove what workers that were killed have left in the store."""
        self._store.sweep()

    def cancel(self) -> None:
        """Make every running and future call raise `ExportCancelledError`; children far away end."""
        self.cancelled.set()

    def renew(self) -> None:
        """Take the calls of the next export."""
        self._store.clear()
        self._timed_at = ""
        self._roster.terms = replace(self._roster.terms, walls=())
        self.cancelled.clear()

    def kill(self) -> None:
        """Do nothing that could take time: what runs for us ends when the scheduler misses this process."""

    def close(self) -> None:
        """End what runs, and leave nothing in the store."""
        self.cancel()
        self._link.close()
        self._store.clear()
