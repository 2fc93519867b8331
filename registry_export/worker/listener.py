"""The worker's own HTTP endpoint, where somebody asks for it: `/metrics`, `/healthz` and `/readyz`, and `/webhook`.

It answers whoever reaches it, changes nothing, and names no model; whoever opens it to a network decides who may ask.
Webhooks are taken from those alone who sign them.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from registry_export.errors import ConfigurationError
from registry_export.worker.health import Health
from registry_export.worker.webhooks import LARGEST_BODY, Delivery, Receiver

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_SLOWEST_CLIENT_S = 10.0
_LOCAL = "127.0.0.1"
_WEBHOOK = "/webhook"

_logger = logging.getLogger(__name__)


def parse_address(text: str) -> tuple[str, int]:
    """Read `PORT`, `HOST:PORT` or `[IPV6]:PORT`; without a host it is this machine alone.

    Raises:
        ConfigurationError: it is none of these.
    """
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigurationError(
            f"{text!r} is no address to listen at.", remedy="Write a port, or host:port, as in --listen 127.0.0.1:9464."
        )
    return host.strip("[]") or _LOCAL, int(port)


@contextlib.contextmanager
def listening(
    address: str, metrics: CollectorRegistry, health: Health, receiver: Receiver | None = None
) -> Iterator[str]:
    """Answer at an address until the block ends.

    Args:
        address: As `parse_address` reads it; port 0 takes any that is free.
        metrics: What `/metrics` shows.
        health: What the others say.
        receiver: Takes what comes to `/webhook`; None: there is no such path.

    Yields:
        The URL.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    host, port = parse_address(address)
    kind = _Server6 if ":" in host else _Server
    try:
        server = kind((host, port), _Handler)
    except (OSError, OverflowError) as error:
        said = f"Nothing can listen at {address}: {getattr(error, 'strerror', None) or error}."
        raise ConfigurationError(said, remedy="Choose another port, or an address of this machine.") from error
    server.set_app(_application(metrics, health, receiver))
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="listener", daemon=True)
    with server:
        thread.start()
        _logger.info("Metrics and health are at %s (/metrics, /healthz, /readyz).", url)
        if receiver is not None:
            _logger.info("MLflow's webhooks are taken at %s%s.", url, _WEBHOOK)
        try:
            yield url
        finally:
            server.shutdown()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The library would ask the name service what this machine is called, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        host, port = self.socket.getsockname()[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library calls it
        _logger.debug("A request of %s broke off.", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _SLOWEST_CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        _logger.debug(format, *args)


def _application(metrics: CollectorRegistry, health: Health, receiver: Receiver | None) -> WSGIApplication:
    shown: WSGIApplication = make_wsgi_app(metrics)
    checks: Mapping[str, Callable[[], Mapping[str, str]]] = {"/healthz": health.live, "/readyz": health.ready}

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if receiver is not None and path == _WEBHOOK:
            status, said = _take(receiver, environ)
            return _answer(start_response, status, {"said": said})
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", {"error": "Only GET."})
        if path == "/metrics":
            return shown(environ, start_response)
        if path not in checks:
            return _answer(start_response, "404 Not Found", {"error": "There are /metrics, /healthz and /readyz."})
        problems = checks[path]()
        status = "503 Service Unavailable" if problems else "200 OK"
        return _answer(start_response, status, {"status": "failing" if problems else "ok", **problems})

    return application


def _take(receiver: Receiver, environ: Mapping[str, Any]) -> tuple[str, str]:
    """Read a delivery of at most a megabyte, and have it judged."""
    if environ.get("REQUEST_METHOD") != "POST":
        return "405 Method Not Allowed", "Only POST."
    length = environ.get("CONTENT_LENGTH") or ""
    if not length.isdecimal():
        return "411 Length Required", "It does not say how long it is."
    if len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
        return "413 Content Too Large", f"It is longer than {LARGEST_BODY} bytes."
    try:
        body = environ["wsgi.input"].read(int(length))
    except OSError:
        return "408 Request Timeout", "It did not come."
    names = ("SIGNATURE", "DELIVERY_ID", "TIMESTAMP")
    signature, delivery_id, timestamp = (str(environ.get(f"HTTP_X_MLFLOW_{name}", "")) for name in names)
    answer = receiver.receive(Delivery(signature, delivery_id, timestamp, body))
    return answer.status, answer.said


def _answer(start_response: StartResponse, status: str, body: Mapping[str, str]) -> list[bytes]:
    content = msgspec.json.encode(body) + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response(status, headers)
    return [content]
