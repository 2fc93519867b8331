"""The Dask workers that are there now, and which of them may have a step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from registry_export.cluster.messages import Account, Terms
from registry_export.errors import ClusterError

MEMORY, MACOS = "memory", "macos"
"""Names of resources, as `dask worker --resources` takes them; memory is in bytes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DaskWorker:
    """One Dask worker.

    Attributes:
        address: Where it is.
        name: What it is called.
        threads: How many steps it takes at a time.
        resources: What it offers, by name.
        account: What it says of itself; None: nothing yet.
        unfit: Why it gets no steps; empty where it may have some.
    """

    address: str
    name: str
    threads: int
    resources: Mapping[str, float]
    account: Account | None = None
    unfit: str = ""


@dataclass(frozen=True)
class Place:
    """Where a step may run.

    Attributes:
        workers: The Dask workers that may have it.
        resources: What it takes of what they offer.
        named: Whether it is to go to these alone: another one offers as much, and must not have it.
        terms: What must hold there.
    """

    workers: tuple[DaskWorker, ...]
    resources: Mapping[str, float]
    named: bool
    terms: Terms

    @property
    def addresses(self) -> list[str]:
        """Where they are."""
        return [worker.address for worker in self.workers]


@dataclass
class Roster:
    """Keeps what Dask workers have said of themselves. Safe to use from several threads.

    Attributes:
        present: Lists those that are there, without their accounts.
        ask: Asks those with these addresses for their accounts; those that cannot answer say why.
        terms: What must hold where a step runs.
    """

    present: Callable[[], Sequence[DaskWorker]]
    ask: Callable[[Sequence[str]], Mapping[str, Account | str]]
    terms: Terms
    _known: dict[str, Account | str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def workers(self) -> tuple[DaskWorker, ...]:
        """Return all that are there now; those that may have no steps are told of once."""
        with self._lock:
            here = self.present()
            gone = self._known.keys() - {worker.address for worker in here}
            for address in gone:
                del self._known[address]
                _log.warning("The Dask worker %s is gone; what it was doing is begun again on another one.", address)
            fresh = [worker for worker in here if worker.address not in self._known]
            if fresh:
                self._meet(fresh)
            return tuple(map(self._judged, here))

    def _meet(self, fresh: Sequence[DaskWorker]) -> None:
        self._known.update(self.ask([worker.address for worker in fresh]))
        for worker in map(self._judged, fresh):
            if worker.unfit:
                _log.warning("The Dask worker %s gets no steps: %s.", worker.name, worker.unfit)
            else:
                _log.info("The Dask worker %s takes %d steps at a time.", worker.name, worker.threads)

    def _judged(self, worker: DaskWorker) -> DaskWorker:
        said = self._known.get(worker.address, "it has not answered yet")
        if isinstance(said, str):
            return replace(worker, unfit=said)
        terms = self._terms_for(MACOS) if worker.resources.get(MACOS) else self.terms
        return replace(worker, account=said, unfit=terms.broken_by(said.terms))

    def _terms_for(self, resource: str) -> Terms:
        """Return what must hold for a step: what needs macOS is an export, and no author's checkpoint."""
        return replace(self.terms, machine="", walls=()) if resource == MACOS else self.terms

    def of_our_kind(self) -> tuple[DaskWorker, ...]:
        """Return those that may run any step of an export."""
        return tuple(w for w in self.workers() if not w.unfit and _same_machine(w, self.terms))

    def place(self, resource: str, memory: int, only: str = "") -> Place:
        """Find where a step may run.

        Args:
            resource: What a machine should have for it; empty: nothing.
            memory: What the step takes at its peak, in bytes.
            only: Address of the one that may have it; empty: any.

        Raises:
            ClusterError: There are Dask workers, and none may have it.
        """
        everyone = self.workers()
        able = [w for w in everyone if not w.unfit and (not only or w.address == only)]
        offering = [w for w in able if resource and w.resources.get(resource, 0) >= 1]
        chosen = offering or [w for w in able if _same_machine(w, self.terms)]
        needs = {resource: 1.0} if offering else {}
        largest = max((w.resources.get(MEMORY, 0) for w in chosen), default=0)
        if largest:
            needs[MEMORY] = min(float(memory), largest)
        chosen = [w for w in chosen if _offers(w, needs)]
        if everyone and not chosen and not only:
            told = "; ".join(f"{w.name}: {w.unfit or 'it is another kind of machine'}" for w in everyone)
            raise ClusterError(
                f"None of the Dask workers may have the step. {told}.",
                remedy="Install the same versions on the worker and on every Dask worker.",
            )
        others = {w.address for w in everyone if _offers(w, needs)} - {w.address for w in chosen}
        terms = self._terms_for(resource) if offering else self.terms
        return Place(tuple(chosen), needs, bool(others), terms)

    def serves(self, place: Place) -> bool:
        """Whether somebody is there who may have a step that was sent to a place."""
        able = [w for w in self.workers() if not w.unfit and _offers(w, place.resources)]
        return any(not place.named or worker.address in place.addresses for worker in able)

    def forget(self, address: str) -> None:
        """Ask a Dask worker anew when it is met next: it has refused what it seemed to be fit for."""
        with self._lock:
            self._known.pop(address, None)


def _same_machine(worker: DaskWorker, terms: Terms) -> bool:
    return worker.account is not None and (not terms.machine or worker.account.terms.machine == terms.machine)


def _offers(worker: DaskWorker, needs: Mapping[str, float]) -> bool:
    return all(worker.resources.get(name, 0) >= amount for name, amount in needs.items())
