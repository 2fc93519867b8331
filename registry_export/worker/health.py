"""Does a worker live, and does everything answer that it needs?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from registry_export.errors import RegistryExportError
from registry_export.redaction import redact
from registry_export.worker.observer import LEDGER, OUTBOX, REGISTRY, Observer
from registry_export.worker.parts import Parts

SILENT_S = 300.0
"""A worker that has not turned round for so long hangs. Its longest honest silence is that of a server that does not
answer: MLflow's client waits two minutes for one."""

_PATIENCE_S = 5.0
_GOOD_FOR_S = 5.0


@dataclass
class Probe:
    """Asks one thing whether it answers, in a thread, because what is cut off may be silent for minutes.

    Attributes:
        ask: Raises where it does not answer.
        answered: Called where it does.
        patience_s: How long an answer is waited for.
        good_for_s: How long an answer counts.
    """

    ask: Callable[[], object]
    answered: Callable[[], None]
    patience_s: float = _PATIENCE_S
    good_for_s: float = _GOOD_FOR_S
    _problem: str | None = None
    _asked_at: float = float("-inf")
    _thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Ask, where the last answer is too old and none is awaited."""
        with self._lock:
            is_asking = self._thread is not None and self._thread.is_alive()
            if is_asking or time.monotonic() - self._asked_at < self.good_for_s:
                return
            self._problem, self._asked_at = None, time.monotonic()
            self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
            self._thread.start()

    def problem(self) -> str:
        """Return what is wrong; empty where nothing is."""
        self.begin()
        if self._thread is not None:
            self._thread.join(max(0.0, self.patience_s - (time.monotonic() - self._asked_at)))
        problem = self._problem
        return f"It has not answered for {time.monotonic() - self._asked_at:.0f} s." if problem is None else problem

    def _run(self) -> None:
        try:
            self.ask()
        except RegistryExportError as error:
            self._problem = redact(str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours is a problem like any other
            self._problem = redact(f"{type(error).__name__}: {error}")
        else:
            self.answered()
            self._problem = ""


class Health:
    """What the health endpoint says.

    Args:
        parts: What the worker works with.
        stop: Set when the worker takes no more jobs.
        silent_s: How long ago the worker turned round last, in seconds.
    """

    def __init__(self, parts: Parts, stop: threading.Event, silent_s: Callable[[], float]) -> None:
        self._stop = stop
        self._silent_s = silent_s
        asked: dict[str, Callable[[], object]] = {LEDGER: parts.ledger.has_unsettled, REGISTRY: parts.registry.ping}
        if parts.outbox is not None:
            asked[OUTBOX] = parts.outbox.is_empty
        self._probes = {part: Probe(ask, _tell(parts.observer, part)) for part, ask in asked.items()}

    def live(self) -> Mapping[str, str]:
        """Return what is wrong with the worker itself, by part; empty: it lives."""
        silent = self._silent_s()
        return {"worker": f"It has not turned round for {silent:.0f} s."} if silent > SILENT_S else {}

    def ready(self) -> Mapping[str, str]:
        """Return what keeps it from taking up a promotion, by part; empty: nothing."""
        for probe in self._probes.values():
            probe.begin()
        problems = {part: probe.problem() for part, probe in self._probes.items()}
        if self._stop.is_set():
            problems["worker"] = "It is stopping."
        return {**self.live(), **{part: problem for part, problem in problems.items() if problem}}


def _tell(observer: Observer, part: str) -> Callable[[], None]:
    return lambda: observer.reached(part)
