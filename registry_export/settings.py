"""Where things are on this machine: what the environment says, read once and handed down as one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from registry_export.errors import ConfigurationError

TRACKING_URI = "MLFLOW_TRACKING_URI"
WORKSPACE = "MLFLOW_WORKSPACE"
OUTBOX_URI = "REGISTRY_EXPORT_OUTBOX_URI"
LEDGER_URI = "REGISTRY_EXPORT_LEDGER_URI"
CONFIG = "REGISTRY_EXPORT_CONFIG"
CHILD_TIMEOUT = "REGISTRY_EXPORT_CHILD_TIMEOUT"
CHILD_MEMORY = "REGISTRY_EXPORT_CHILD_MEMORY"
LATENCY = "REGISTRY_EXPORT_LATENCY"
TRACE = "REGISTRY_EXPORT_TRACE"
BLOBS = "REGISTRY_EXPORT_BLOBS"
SIGNING_KEY = "REGISTRY_EXPORT_SIGNING_KEY"
SIGNING_KEY_PASSWORD = "REGISTRY_EXPORT_SIGNING_KEY_PASSWORD"  # noqa: S105 - the name of a variable
VERIFY_KEY = "REGISTRY_EXPORT_VERIFY_KEY"
WEBHOOK_SECRET = "REGISTRY_EXPORT_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
REGISTRY_URI = "MLFLOW_REGISTRY_URI"

CONFIG_NAME = "registry-export.yaml"
_APPLICATION = "registry-export"
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        tracking_uri: MLflow's tracking URI; None leaves the choice to MLflow.
        registry_uri: The model registry's, where it is another server; None: it is the tracking server.
        webhook_secret: What MLflow signs its webhooks with; None: a worker takes none.
        outbox_uri: SQLAlchemy URL of the registry's database, where the hook writes; None: HTTP alone.
        ledger_uri: SQLAlchemy URL of the database that keeps the jobs.
        config_path: The rules' file; None when there is none.
        child_timeout_s: Time limit of one conversion or inference, in seconds.
        child_memory_bytes: Memory limit of one child process; None: four fifths of the machine's.
        workspace: The MLflow workspace to work in; None where the server has no workspaces.
        latency: Whether sources and exports are timed.
        trace_folder: Where a trace of every export is written; None: nowhere.
        blobs_uri: Artifact URI of the folder through which files go to a cluster and back; None where there is none.
        signing_key: The private key that exports are signed with; None: they are not.
        signing_key_password: Decrypts it; None where it is not encrypted.
        verify_key: The public keys of which one must have signed what is pulled or loaded; None: signatures are not
            looked at.
    """

    tracking_uri: str | None
    outbox_uri: str | None
    ledger_uri: str
    config_path: Path | None
    child_timeout_s: float = 1800.0
    child_memory_bytes: int | None = None
    workspace: str | None = None
    latency: bool = True
    trace_folder: Path | None = None
    blobs_uri: str | None = None
    signing_key: Path | None = None
    signing_key_password: str | None = field(default=None, repr=False)
    verify_key: Path | None = None
    registry_uri: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings, with their defaults filled in.

        Raises:
            ConfigurationError: a limit is no number, a switch is neither on nor off, or the configuration file or
                the key that is named does not exist.
        """
        outbox_uri = environ.get(OUTBOX_URI) or None
        memory = environ.get(CHILD_MEMORY) or None
        timeout = environ.get(CHILD_TIMEOUT) or None
        return cls(
            tracking_uri=environ.get(TRACKING_URI) or None,
            outbox_uri=outbox_uri,
            ledger_uri=environ.get(LEDGER_URI) or outbox_uri or _default_ledger_uri(),
            config_path=_config_path(environ),
            child_timeout_s=cls.child_timeout_s if timeout is None else _parse_seconds(timeout),
            child_memory_bytes=None if memory is None else _parse_bytes(memory),
            workspace=environ.get(WORKSPACE) or None,
            latency=_parse_switch(environ.get(LATENCY) or "on"),
            trace_folder=Path(environ[TRACE]).expanduser() if environ.get(TRACE) else None,
            blobs_uri=environ.get(BLOBS) or None,
            signing_key=_key_path(environ, SIGNING_KEY),
            signing_key_password=environ.get(SIGNING_KEY_PASSWORD) or None,
            verify_key=_key_path(environ, VERIFY_KEY),
            webhook_secret=environ.get(WEBHOOK_SECRET) or None,
            registry_uri=environ.get(REGISTRY_URI) or None,
        )


def _default_ledger_uri() -> str:
    return f"sqlite:///{platformdirs.user_data_path(_APPLICATION, appauthor=False) / 'ledger.db'}"


def config_places(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where the rules' file may be, the first choice first: where the environment says, and nowhere else then.

    Args:
        environ: The environment.
    """
    named = environ.get(CONFIG)
    if named:
        return (Path(named).expanduser(),)
    folders = (Path.cwd(), platformdirs.user_config_path(_APPLICATION, appauthor=False))
    return tuple(folder / CONFIG_NAME for folder in folders)


def _config_path(environ: Mapping[str, str]) -> Path | None:
    places = config_places(environ)
    found = next((path for path in places if path.is_file()), None)
    if found is None and environ.get(CONFIG):
        raise ConfigurationError(
            f"The configuration file {places[0]} does not exist.", remedy=f"Correct the environment variable {CONFIG}."
        )
    return found


def _key_path(environ: Mapping[str, str], name: str) -> Path | None:
    path = Path(environ[name]).expanduser() if environ.get(name) else None
    if path is not None and not path.is_file():
        raise ConfigurationError(f"{name}={path}: there is no such file.", remedy="Name a key in PEM format.")
    return path


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(
            f"{CHILD_TIMEOUT}={text!r} is no positive number of seconds.", remedy=f"Write {CHILD_TIMEOUT}=1800."
        )
    return seconds


def _parse_switch(text: str) -> bool:
    if text.strip().lower() not in ("on", "off"):
        raise ConfigurationError(f"{LATENCY}={text!r} is neither on nor off.", remedy=f"Write {LATENCY}=off.")
    return text.strip().lower() == "on"


def _parse_bytes(text: str) -> int:
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in _UNITS:
        number, unit = number[:-1], number[-1]
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigurationError(
            f"{CHILD_MEMORY}={text!r} is no size.",
            remedy=f"Write a number of bytes, or one followed by K, M, G or T: {CHILD_MEMORY}=4G.",
        )
    return size
