"""`mlflow server` and a worker as two child processes that start and stop together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_export.config import load_configuration
from registry_export.discovery import discover_formats
from registry_export.errors import ConfigurationError, RegistryExportError
from registry_export.settings import CONFIG, OUTBOX_URI, TRACKING_URI, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_START_S = 300.0
_STOP_S = 30.0
_POLL_S = 0.5
_DEFAULT_STORE = "sqlite:///mlflow.db"
"""MLflow's own default, said aloud because the worker must read the same database."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def run_server_and_worker(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start both, and return when a person stops them.

    Args:
        arguments: What `mlflow server` is given.
        environ: The environment of both.

    Raises:
        ConfigurationError: The rules are not understood, or the address is taken; nothing was started.
        RegistryExportError: One of them ended by itself.
    """
    rules = _checked_rules(environ)
    url = server_url(arguments, environ)
    stores, registry = store_of(arguments, environ)
    environment = {**environ, "MLFLOW_TRACKING_URI": url}
    if registry.partition(":")[0].partition("+")[0] in _DATABASES:
        environment[OUTBOX_URI] = _absolute(registry)
    else:
        click.echo(f"The registry at {registry} is no database: the worker reconciles through HTTP alone.")
    mlflow_command = [sys.executable, "-m", "mlflow", "server", *stores, *arguments]
    worker_command = [sys.executable, "-m", "registry_export.cli", "worker"]
    if _answers(url):
        raise ConfigurationError(f"Something answers at {url} already; choose another port with --port.")
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as running:
        server = running.enter_context(started(mlflow_command, _without_known_warnings(environ)))
        wait_until_healthy(server, url)
        worker = running.enter_context(started(worker_command, environment))
        click.echo(f"MLflow is at {url}, and a worker exports what is promoted there. Ctrl-C stops both.")
        click.echo(f"For clients, in another terminal: export {TRACKING_URI}={url}")
        if environment.get(OUTBOX_URI, "").startswith("sqlite:"):  # others have a password in them
            click.echo(f"For `registry-export jobs` also: export {OUTBOX_URI}={environment[OUTBOX_URI]}")
        if rules is not None:
            click.echo(f"For `export` and `plan` by the same rules also: export {CONFIG}={rules}")
        _wait_until_one_ends({"mlflow server": server, "the worker": worker})


def _checked_rules(environ: Mapping[str, str]) -> Path | None:
    """Return the file with the rules, None without one, before the worker would refuse it behind a server's log."""
    path = Settings.from_environment(environ).config_path
    load_configuration(path, discover_formats())
    return path and path.absolute()


def _without_known_warnings(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Leave out what each of MLflow's processes says of its own use of Starlette, and nobody here can mend."""
    filters = (environ.get("PYTHONWARNINGS", ""), "ignore:starlette.middleware.wsgi is deprecated")
    return {**environ, "PYTHONWARNINGS": ",".join(filter(None, filters))}


def server_url(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """The address at which a server with these arguments answers on this machine."""
    host = _option(arguments, ("--host", "-h"), environ.get("MLFLOW_HOST", "127.0.0.1"))
    port = _option(arguments, ("--port", "-p"), environ.get("MLFLOW_PORT", "5000"))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where to call, not where to listen
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def store_of(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the arguments that must be added, and where the registry is kept.

    Args:
        arguments: What `mlflow server` is given.
        environ: Its environment.
    """
    backend = _option(arguments, ("--backend-store-uri",), environ.get("MLFLOW_BACKEND_STORE_URI", ""))
    registry = _option(arguments, ("--registry-store-uri",), environ.get("MLFLOW_REGISTRY_STORE_URI", ""))
    added = () if backend else ("--backend-store-uri", _DEFAULT_STORE)
    return added, registry or backend or _DEFAULT_STORE


def _absolute(uri: str) -> str:
    """Write a SQLite file's path in full, so that the address holds in every folder."""
    scheme, slashes, path = uri.partition("sqlite:///")
    return uri if scheme or not slashes or path.startswith(("/", ":")) else f"sqlite:///{Path.cwd() / path}"


def _option(arguments: Sequence[str], names: Sequence[str], default: str) -> str:
    found = default
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names and equals:
            found = value
        elif argument in names and position + 1 < len(arguments):
            found = arguments[position + 1]
    return found


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a group of its own, so that Ctrl-C reaches it through us and in our order.

    Args:
        command: What to run.
        environment: Its environment.
        log: Where its output goes; None: where ours goes.
    """
    with contextlib.ExitStack() as files:
        output = files.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output and subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        try:
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
        finally:  # a second Ctrl-C must not leave it behind
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until `mlflow server` answers.

    Raises:
        RegistryExportError: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RegistryExportError(
                f"mlflow server ended with exit status {process.returncode}; its output says why."
            )
        if _answers(url):
            return
        time.sleep(_POLL_S)
    raise RegistryExportError(f"mlflow server did not answer at {url} within {_START_S:.0f} seconds.")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - made by server_url, always http
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _wait_until_one_ends(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                raise RegistryExportError(f"{name} ended with exit status {process.returncode}; both are stopped.")
        time.sleep(_POLL_S)
