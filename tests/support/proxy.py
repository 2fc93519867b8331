"""Between an MLflow server and its clients: a proxy that delays, refuses and cuts what a test chooses."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PASS, HANG, REFUSE, CUT = "pass", "hang", "refuse", "cut"
UNKNOWN, INVALID = "unknown", "invalid"
_ANSWERS = {
    REFUSE: (500, b"planted"),
    UNKNOWN: (404, b'{"error_code": "ENDPOINT_NOT_FOUND", "message": "No API found for this path."}'),
    INVALID: (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Unsupported search."}'),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_HALF = 2


class Proxy:
    """Context manager: an HTTP proxy on a free port in front of one server.

    Args:
        port: The server's, on this machine.

    Attributes:
        uri: Where clients connect.
        treat: Told method and path of every request; says what becomes of it: `PASS`; `HANG`: no answer until the end;
            `REFUSE`: status 500; `UNKNOWN`, `INVALID`: what a hosted server says of a call, or of a search, that it
            does not have; `CUT`: half of its body goes on to the server, then both connections break; bytes: they are
            answered in the server's place.
        seen: Every request, as (method, path, treatment).
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.treat: Callable[[str, str], str | bytes] = lambda method, path: PASS
        self.seen: list[tuple[str, str, str | bytes]] = []
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            treatment = proxy.treat(self.command, self.path)
            proxy.seen.append((self.command, self.path, treatment))
            if treatment == HANG:
                proxy.ended.wait()
                self.close_connection = True
                return
            body = self._body()
            if isinstance(treatment, bytes) or treatment in _ANSWERS:
                status, said = (200, treatment) if isinstance(treatment, bytes) else _ANSWERS[treatment]
                self._answer(status, [], said)
                return
            server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            try:
                if treatment == CUT:
                    server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in {**headers, "Content-Length": str(len(body))}.items():
                        server.putheader(name, value)
                    server.endheaders(body[: len(body) // _HALF])
                    self.close_connection = True
                    return
                server.request(self.command, self.path, body, headers)
                answer = server.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())
            except OSError:
                self.close_connection = True
            finally:
                server.close()

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass_on  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler
