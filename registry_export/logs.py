"""What a command tells its operator: one line per event on stderr, as text or as JSON, without secrets."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from registry_export.redaction import redact

TEXT, JSON = "text", "json"

_PLAIN = "%(levelname)s %(name)s: %(message)s"
_SERVICE = "%(asctime)s %(levelname)-7s %(message)s"
_OURS = "registry_export"

_subjects: list[dict[str, Any]] = []
"""What is under way in this process, the latest last."""


def configure_logging(style: str, *, debug: bool) -> None:
    """Send every log line of this process to stderr.

    Args:
        style: `TEXT` or `JSON`.
        debug: Whether our own lines below a warning are told too.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_json_formatter() if style == JSON else _TextFormatter(_PLAIN))
    handler.addFilter(_add_subject)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(_OURS).setLevel(logging.DEBUG if debug else logging.WARNING)
    if style == JSON:
        # Nothing comes to stderr beside the log.
        logging.captureWarnings(True)
        threading.excepthook = _log_thread


def log_as_a_service() -> None:
    """Tell every event, with its time, and let MLflow's own lines come the same way: for commands that keep running."""
    log = logging.getLogger(_OURS)
    log.setLevel(min(log.level or logging.INFO, logging.INFO))
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # read when MLflow is imported
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _TextFormatter):
            handler.setFormatter(_TextFormatter(_SERVICE, "%H:%M:%S"))


def logs_json() -> bool:
    """Whether stderr carries JSON, so that errors for people belong into the log as well."""
    return any(getattr(handler.formatter, "style", None) == JSON for handler in logging.getLogger().handlers)


@contextlib.contextmanager
def about(**fields: object) -> Iterator[None]:
    """Give every line that is logged in the block these fields, from whichever thread.

    For processes that do one thing at a time, as a worker does one job: an export's threads are not the caller's.
    """
    _subjects.append(fields)
    try:
        yield
    finally:
        # Blocks of several threads may end in any order.
        _subjects[:] = [subject for subject in _subjects if subject is not fields]


def _add_subject(record: logging.LogRecord) -> bool:
    for subject in reversed(_subjects):
        for name, value in subject.items():
            record.__dict__.setdefault(name, value)
    return True


def _log_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None and not isinstance(what.exc_value, SystemExit):
        name = what.thread.name if what.thread is not None else "a thread"
        logging.getLogger(_OURS).error("%s ended with an error.", name, exc_info=what.exc_value)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.msgspec import MsgspecFormatter

    class JsonFormatter(MsgspecFormatter):
        """Time, level, logger and message come first; what a line is about, and an exception, follow."""

        style = JSON

        def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
            return {"time": log_data.pop("time"), **{name: _clean(value) for name, value in log_data.items()}}

    names = {"levelname": "level", "name": "logger", "exc_info": "exception"}
    return JsonFormatter(("levelname", "name", "message"), rename_fields=names, timestamp="time")


def _clean(value: object) -> object:
    if isinstance(value, (int, float)) or value is None:
        return value
    # File names may have bytes in them that are no text.
    return redact(str(value).encode("utf-8", "backslashreplace").decode())
