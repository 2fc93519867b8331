"""A worker that can be watched from outside: what counts, what says how it is, and where both are asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from registry_export.ledger import Census
from registry_export.worker.parts import Parts


@contextmanager
def watched(parts: Parts, stop: threading.Event, address: str) -> Iterator[Parts]:
    """Serve metrics and health until the block ends.

    Args:
        parts: What the worker works with.
        stop: Set when it takes no more jobs.
        address: Where to listen, as `listener.parse_address` reads it.

    Yields:
        The parts, with an observer.

    Raises:
        ConfigurationError: Nothing can listen there.
    """
    # What a worker that nobody watches does not need.
    from registry_export.worker.health import Health
    from registry_export.worker.listener import listening
    from registry_export.worker.metrics import Metrics

    metrics = Metrics(parts.formats, parts.pool, Census(parts.ledger.database))
    parts = replace(parts, observer=metrics)
    with listening(address, metrics.registry, Health(parts, stop, lambda: metrics.silent_s)):
        yield parts
