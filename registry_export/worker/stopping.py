"""How a signal stops a worker: soon, and within a limit whatever it is in the middle of.

The running export may end within the grace. After that it is cancelled, which ends its children and gives its job
back. What does not heed that, an upload to a store that hangs, is left where it is: the job is given back beside it,
and the process ends.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from registry_export.scratch import remove_held

GRACE_S = 20.0
"""How long a running export may go on after a signal. Kubernetes kills what has not ended after 30 s; giving a job
back takes up to `_HEED_S + _HAND_BACK_S` of them."""

_HEED_S = 4.0
_HAND_BACK_S = 3.0

_logger = logging.getLogger(__name__)


class Stoppable(Protocol):
    """What a worker lets a signal do."""

    stop: threading.Event
    """Set to stop after the running export."""

    @property
    def is_busy(self) -> bool:
        """Whether an export is running."""
        ...

    def stop_at_once(self) -> None:
        """Cancel the running export as well."""
        ...

    def abandon(self) -> None:
        """End all children, and give the running job back without waiting for its export."""
        ...


@contextlib.contextmanager
def stopped_by_signals(worker: Stoppable, grace_s: float) -> Iterator[None]:
    """Stop after the running export at the first signal, at once at the second; the third is Python's own.

    Args:
        worker: What is stopped.
        grace_s: How long the running export may go on, in seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        at_once = next(signals) > 0
        if at_once:
            signal.signal(number, before[number])
        # In a thread: the handler interrupts the main thread, which may hold the locks of the very events to set.
        arguments = (worker, signal.Signals(number).name, 0.0 if at_once else grace_s, ended)
        threading.Thread(target=_stop, args=arguments, name="stop", daemon=True).start()

    signals, ended = itertools.count(), threading.Event()
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        ended.set()
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _stop(worker: Stoppable, name: str, grace_s: float, ended: threading.Event) -> None:
    if grace_s:
        if worker.is_busy:
            _logger.info("%s: stopping after the running export, within %g s; again to stop at once.", name, grace_s)
        else:
            _logger.info("%s: stopping.", name)
        worker.stop.set()
        if ended.wait(grace_s):
            return
    _logger.info("%s: stopping at once.", name)
    worker.stop_at_once()
    if ended.wait(_HEED_S):
        return
    _logger.warning("%s: what runs does not heed it: its job is given back, and the process left.", name)
    last = threading.Thread(target=_abandon, args=(worker,), name="last", daemon=True)
    last.start()
    last.join(_HAND_BACK_S)
    logging.shutdown()
    os._exit(0)


def _abandon(worker: Stoppable) -> None:
    worker.abandon()
    remove_held()
