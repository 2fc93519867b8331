"""The connection to a Dask scheduler: made when it is needed, and made anew where it was lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import distributed
import msgspec
from distributed.scheduler import KilledWorker

from registry_export.cluster import far
from registry_export.cluster.messages import Account
from registry_export.cluster.roster import DaskWorker, Place
from registry_export.errors import (
    ChildCrashedError,
    ClusterError,
    ClusterUnavailableError,
    ConfigurationError,
    RegistryExportError,
)
from registry_export.format import Toolchain

_ANSWER_S, _CLOSE_S = 20.0, 5.0
_THERE = ("running", "paused")
_SAME = "Install registry-export and its packages, all of the same versions, for the scheduler and every Dask worker."

_log = logging.getLogger(__name__)


class Link:
    """A Dask scheduler, and our plugin on its workers. Safe to use from several threads.

    Args:
        address: The scheduler's, as `tcp://host:8786`; for `tls://` Dask's own configuration names the certificates.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connected: distributed.Client | None = None
        self._scheduler = ""
        self._lock = threading.Lock()

    @property
    def _client(self) -> distributed.Client:
        with self._lock:
            if self._connected is None or self._connected.status in ("closing", "closed"):
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> distributed.Client:
        security = distributed.Security()  # what Dask's configuration says
        encrypted = self.address.startswith("tls://")
        if encrypted and security.get_connection_args("client").get("ssl_context") is None:
            raise ConfigurationError(
                f"Dask's configuration names no certificates for {self.address}.",
                remedy="Set distributed.comm.tls.ca-file, and cert and key of distributed.comm.tls.client.",
            )
        if security.require_encryption and not encrypted:
            raise ConfigurationError(
                f"Dask's configuration demands encryption, and {self.address} has none.",
                remedy="Write --scheduler tls://host:8786.",
            )
        try:
            return distributed.Client(
                self.address, security=security, set_as_default=False, name="registry-export", asynchronous=False
            )
        except ValueError as error:
            raise ConfigurationError(
                f"{self.address!r} is no Dask scheduler's address: {error}.",
                remedy="Write --scheduler tcp://host:8786, or tls://host:8786.",
            ) from error
        except (OSError, TimeoutError) as error:
            raise self._silent() from error

    def present(self) -> list[DaskWorker]:
        """List the Dask workers that are there, with our plugin on them; their accounts are not asked for.

        Raises:
            ClusterUnavailableError: The scheduler does not answer.
        """
        client = self._client
        identity = self._identity(client)
        if identity.get("id", "") != self._scheduler:
            self._bring_plugin(client)
            self._scheduler = str(identity.get("id", ""))
        workers = identity.get("workers", {}).items()
        return [
            DaskWorker(address, str(about["name"]), about["nthreads"], about.get("resources", {}))
            for address, about in workers
            if about.get("status", "running") in _THERE
        ]

    def _identity(self, client: distributed.Client) -> Mapping[str, Any]:
        """Ask the scheduler itself who it is and who its workers are: what the client keeps of it outlives it."""
        if client.status == "connecting":  # it has just been lost; asking would wait for its return
            raise self._silent()
        try:
            identity: Mapping[str, Any] = client.sync(client.scheduler.identity, callback_timeout=_ANSWER_S)
        except (OSError, TimeoutError) as error:
            raise self._silent() from error
        return identity

    def _silent(self) -> ClusterUnavailableError:
        return ClusterUnavailableError(
            f"The Dask scheduler at {self.address} does not answer.",
            remedy="Is it running, and are the certificates the right ones where it uses TLS?",
        )

    def _bring_plugin(self, client: distributed.Client) -> None:
        try:
            client.register_plugin(far.House())
        except Exception as error:  # noqa: BLE001  of one Dask worker; it is told of when it is asked for its account
            _log.debug("a Dask worker did not take the plugin: %s", error)

    def ask(self, addresses: Sequence[str]) -> Mapping[str, Account | str]:
        """Ask Dask workers for their accounts; those that cannot answer say why."""
        answers = self._run_on(far.describe, (), addresses)
        found: dict[str, Account | str] = {}
        for address, answer in answers.items():
            if isinstance(answer, str):
                found[address] = msgspec.json.decode(answer, type=Account)
            else:
                found[address] = f"it cannot say what it has ({type(answer).__name__}: {answer})"
        return found

    def warm(self, toolchains: Sequence[Toolchain], addresses: Sequence[str]) -> None:
        """Start warm parents in the background."""
        self._run_on(far.warm, (msgspec.json.encode(toolchains).decode(),), addresses)

    def _run_on(
        self, function: Callable[..., Any], arguments: tuple[str, ...], addresses: Sequence[str]
    ) -> dict[str, Any]:
        try:
            answers = self._client.run(function, *arguments, workers=list(addresses), on_error="return")
        except (OSError, TimeoutError) as error:
            raise self.lost() from error
        return dict(answers)

    def submit(self, text: str, place: Place, name: str, priority: int) -> distributed.Future:
        """Send a `Task` out."""
        return self._client.submit(
            far.run,
            text,
            key=name,
            resources=dict(place.resources) or None,
            workers=place.addresses if place.named else None,
            allow_other_workers=False,
            priority=priority,
        )

    def result(self, future: distributed.Future) -> str:
        """Return the text of the `Result` of a task that is done.

        Raises:
            ChildCrashedError: Dask has given it up: worker after worker has ended while it ran.
            ClusterUnavailableError: The scheduler is gone.
            ClusterError: It could not be run at all.
        """
        try:
            error = future.exception(timeout=_ANSWER_S) if future.status == "error" else None
            if error is None and future.status == "finished":
                return str(future.result(timeout=_ANSWER_S))
        except (OSError, TimeoutError) as problem:
            raise self.lost() from problem
        if error is None:
            raise self.lost()
        raise _told(error) from error

    def lost(self) -> ClusterUnavailableError:
        """Build the error for a scheduler that is gone."""
        return ClusterUnavailableError(
            f"The Dask scheduler at {self.address} was lost while a step ran.",
            remedy="The export is tried again; see the scheduler's log.",
        )

    def close(self) -> None:
        """Close the connection; what we have sent out ends."""
        with self._lock:
            client, self._connected = self._connected, None
        if client is not None:
            client.close(timeout=_CLOSE_S)


def _told(error: BaseException) -> RegistryExportError:
    if isinstance(error, KilledWorker):
        return ChildCrashedError(
            f"It was given up: {error.allowed_failures + 1} Dask workers ended while they had it, "
            f"{error.last_worker.address} the last.",
            remedy="Their logs, and the system's where memory ran out, say more.",
        )
    return ClusterError(f"A Dask worker could not run the step: {type(error).__name__}: {error}.", remedy=_SAME)
