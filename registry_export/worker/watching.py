"""A worker that can be reached from outside: what counts, what says how it is, and where both are asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from registry_export.ledger import Census
from registry_export.worker.parts import Parts


@contextmanager
def watched(parts: Parts, stop: threading.Event, address: str, secret: str | None = None) -> Iterator[Parts]:
    """Serve metrics and health, and take webhooks, until the block ends.

    Args:
        parts: What the worker works with.
        stop: Set when it takes no more jobs.
        address: Where to listen, as `listener.parse_address` reads it.
        secret: What MLflow signs its webhooks with; None: none are taken.

    Yields:
        The parts, with an observer.

    Raises:
        ConfigurationError: Nothing can listen there, or the secret is too short.
    """
    # What a worker that nobody watches does not need.
    from registry_export.worker.health import Health
    from registry_export.worker.listener import listening
    from registry_export.worker.metrics import Metrics
    from registry_export.worker.webhooks import Hints, Receiver

    metrics = Metrics(parts.formats, parts.pool, Census(parts.ledger.database))
    hints = None if secret is None else Hints()
    parts = replace(parts, observer=metrics, hints=hints)
    receiver = None if secret is None or hints is None else Receiver(secret, hints, metrics.delivered)
    with listening(address, metrics.registry, Health(parts, stop, lambda: metrics.silent_s), receiver):
        yield parts
