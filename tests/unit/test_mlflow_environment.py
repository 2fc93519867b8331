"""What MLflow's own environment variables say holds for our calls too: they are all made by its client."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from registry_export.errors import RegistryUnavailableError
from registry_export.registry import Registry
from tests.support.certificates import dask_tls


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    dask_tls(folder)
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder


@pytest.fixture
def server(certificates):
    """A server behind TLS that asks for a certificate of its clients, and keeps the headers they send."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.headers.append(dict(self.headers))
            content = json.dumps({"registered_models": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.headers = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ping(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def ping(**environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, str(value))
        Registry(f"https://127.0.0.1:{server.server_port}").ping()
        return server.headers[-1]

    return ping


def test_an_authority_of_ones_own_and_a_clients_certificate_are_used(ping, certificates):
    mine = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": certificates / "both.pem"}
    with pytest.raises(RegistryUnavailableError, match="certificate"):
        ping(**mine)
    assert ping(**mine, MLFLOW_TRACKING_SERVER_CERT_PATH=certificates / "ca.pem")


def test_without_a_clients_certificate_it_is_refused(ping, certificates):
    with pytest.raises(RegistryUnavailableError):
        ping(MLFLOW_TRACKING_SERVER_CERT_PATH=certificates / "ca.pem")


def test_a_certificate_need_not_be_looked_at(ping, certificates):
    mine = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": certificates / "both.pem"}
    assert ping(**mine, MLFLOW_TRACKING_INSECURE_TLS="true")


@pytest.mark.parametrize(
    ("environ", "sent"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "a-token"}, "Bearer a-token"),
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"}, "Basic bWU6c2VjcmV0"),
    ],
)
def test_credentials_are_sent(ping, certificates, environ, sent):
    tls = {
        "MLFLOW_TRACKING_CLIENT_CERT_PATH": certificates / "both.pem",
        "MLFLOW_TRACKING_SERVER_CERT_PATH": certificates / "ca.pem",
    }
    assert ping(**tls, **environ)["Authorization"] == sent


def test_a_server_that_is_silent_is_given_up_when_the_variable_says(monkeypatch, free_listener):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(RegistryUnavailableError, match="timed out"):
        Registry(free_listener).ping()


@pytest.fixture
def free_listener():
    """Takes connections and says nothing."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
