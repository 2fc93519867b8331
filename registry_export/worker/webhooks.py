"""MLflow's webhooks, taken as hints: which registered model the reconciler should look at now.

A delivery that is signed and new is believed in one thing, that something has happened to a version. What it was, the
reconciler reads from the registry itself; what is lost it finds in its next sweep.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from registry_export.config import TARGETS_TAG
from registry_export.entities import ModelVersionRef
from registry_export.errors import ConfigurationError
from registry_export.settings import WEBHOOK_SECRET

LARGEST_BODY = 1 << 20
"""Bytes. MLflow's largest event is a tag of 100,000 characters."""

WINDOW_S = 300.0
"""How old a delivery may be, and how far ahead of our clock. MLflow's own retries end after some seconds."""

_MOST_REMEMBERED = 10_000
_MOST_HINTS = 1000
_LONGEST_NAME = 256
_LONGEST_ID = 100
_LONGEST_NUMBER = 12
_SHORTEST_SECRET = 16
_TELLING = {("model_version", "created"), ("model_version_alias", "created")}
_TAG_EVENTS = {("model_version_tag", "set"), ("model_version_tag", "deleted")}


class Hints:
    """The versions that were told of, until somebody looks. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[ModelVersionRef] = set()

    def __bool__(self) -> bool:
        return bool(self._told)

    def add(self, ref: ModelVersionRef) -> None:
        """Keep a hint; beyond a thousand they are dropped, for a sweep finds as much."""
        with self._lock:
            if len(self._told) < _MOST_HINTS:
                self._told.add(ref)

    def take(self) -> frozenset[ModelVersionRef]:
        """Return all hints, and forget them."""
        with self._lock:
            told, self._told = frozenset(self._told), set()
        return told


@dataclass(frozen=True)
class Delivery:
    """A request as it came.

    Attributes:
        signature: `v1,<base64>`.
        delivery_id: MLflow's name for the delivery, the same in each of its retries.
        timestamp: Seconds since the epoch.
        body: JSON.
    """

    signature: str
    delivery_id: str
    timestamp: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is answered.

    Attributes:
        status: The HTTP status.
        outcome: One word for it, for the metrics.
        said: A sentence for whoever sent it.
    """

    status: str
    outcome: str
    said: str


class _Data(msgspec.Struct):
    name: str = ""
    version: str = ""
    key: str = ""


class _Event(msgspec.Struct):
    entity: str
    action: str
    data: _Data = msgspec.field(default_factory=_Data)


_decoder = msgspec.json.Decoder(_Event)


@dataclass
class Receiver:
    """Judges deliveries, and keeps what they hint at.

    Attributes:
        secret: What MLflow signs with.
        hints: Takes what was told.
        answered: Called with the outcome of each delivery.
        clock: Says the time, in seconds since the epoch.
    """

    secret: str = field(repr=False)
    hints: Hints
    answered: Callable[[str], None] = lambda _outcome: None
    clock: Callable[[], float] = time.time
    _seen: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if len(self.secret) < _SHORTEST_SECRET:
            raise ConfigurationError(
                f"{WEBHOOK_SECRET} is too short: {len(self.secret)} of at least {_SHORTEST_SECRET} characters.",
                remedy="Make one with `openssl rand -hex 32`, and give it to MLflow's webhook too.",
            )

    def receive(self, delivery: Delivery) -> Answer:
        """Judge a delivery; nothing of its body is read before its signature has been found right."""
        answer = self._judged(delivery)
        self.answered(answer.outcome)
        return answer

    def _judged(self, delivery: Delivery) -> Answer:
        name, moment = delivery.delivery_id, delivery.timestamp
        is_whole = 0 < len(name) <= _LONGEST_ID and moment.isdecimal() and len(moment) <= _LONGEST_NUMBER
        if not is_whole or not hmac.compare_digest(delivery.signature.encode(), self._signature_of(delivery)):
            return Answer("401 Unauthorized", "refused", "The signature is missing or wrong.")
        if abs(self.clock() - int(moment)) > WINDOW_S:
            return Answer("401 Unauthorized", "stale", "It was signed too long ago, or our clocks differ.")
        return self._repeated(name, int(moment) + WINDOW_S) or self._take(delivery.body)

    def _signature_of(self, delivery: Delivery) -> bytes:
        signed = f"{delivery.delivery_id}.{delivery.timestamp}.".encode() + delivery.body
        return b"v1," + base64.b64encode(hmac.new(self.secret.encode(), signed, hashlib.sha256).digest())

    def _repeated(self, delivery_id: str, until: float) -> Answer | None:
        """Remember a delivery for as long as its signature would hold; None where it is new."""
        now = self.clock()
        with self._lock:
            if delivery_id in self._seen:
                return Answer("409 Conflict", "repeated", "It was delivered before.")
            if len(self._seen) >= _MOST_REMEMBERED:
                self._seen = {name: end for name, end in self._seen.items() if end >= now}
            if len(self._seen) >= _MOST_REMEMBERED:
                return Answer("503 Service Unavailable", "overflow", "Too many deliveries; a sweep will find it.")
            self._seen[delivery_id] = until
        return None

    def _take(self, body: bytes) -> Answer:
        try:
            event = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Answer("400 Bad Request", "unreadable", "It is no event of a model registry.")
        kind, name, version = (event.entity, event.action), event.data.name, event.data.version
        if not (kind in _TELLING or (kind in _TAG_EVENTS and event.data.key == TARGETS_TAG)):
            return Answer("200 OK", "ignored", "Nothing is exported for such an event.")
        is_named = 0 < len(name) <= _LONGEST_NAME and name.isprintable()
        if not (is_named and version.isdecimal() and len(version) <= _LONGEST_NUMBER):
            return Answer("400 Bad Request", "unreadable", "It names no model version.")
        self.hints.add(ModelVersionRef(name, version))
        return Answer("202 Accepted", "taken", "It is looked at.")
