"""What can go wrong in a call to MLflow, told in the words of the error tree."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from registry_export.errors import (
    ModelVersionNotFoundError,
    RegistryError,
    RegistryExportError,
    RegistryUnavailableError,
    full_disk,
)

_CLIENT_DEFAULTS: Mapping[str, str] = {
    # MLflow's own defaults keep a caller waiting about four minutes for a server that is down. The
    # ledger retries whole jobs, so seconds are enough here.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}
_NO_SUCH_CALL = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}
_FORBIDDEN = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_TRANSIENT = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "IO_ERROR",
    "ABORTED",
}
_HTTP_FORBIDDEN = (401, 403)
_UNKNOWN_NAME = "Invalid Host header"
"""What `mlflow server` says when it is called by a name that it was not started with."""
_DELETIONS = ("remove", "delete")
_HTTP_MISSING = 404
_HTTP_TRANSIENT = (408, 429)
_HTTP_SERVER_ERROR = 500
_LONGEST_MESSAGE = 400
_NO_SPACE = re.compile(rf"(?:\[Errno |Error\()(?:{errno.ENOSPC}|{errno.EDQUOT})\b")
"""An error of this machine's own, also where MLflow tells of it in an exception of its own. A server's has a status."""
_INNERMOST = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)|(?<=ResponseError\(['\"])([^'\"]+)|(timed out)")


def use_client_defaults() -> None:
    """Shorten MLflow's retries for this process, where the user has not chosen otherwise."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_printed_links() -> Iterator[None]:
    """Keep MLflow from printing a run's address when the run ends."""
    name = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def registry_calls(doing: str, server: str) -> Iterator[None]:
    """Translate whatever a call to MLflow or to an artifact store raises.

    Args:
        doing: What the calls are for, to complete "Could not ..." (`read digits/3`).
        server: The tracking URI, named when it does not answer.

    Raises:
        ModelVersionNotFoundError: What was asked for is not there.
        RegistryUnavailableError: No answer, or a transient one (5xx, 429).
        RegistryError: Anything else, permissions among it.
    """
    try:
        yield
    except RegistryExportError:
        raise
    except Exception as error:
        raise translate(error, doing, server) from error


def translate(error: Exception, doing: str, server: str) -> RegistryExportError:
    """Return the error of the tree that stands for an exception of MLflow or of an artifact store.

    Exceptions are told apart by what they carry (`error_code`, an HTTP response) and not by class:
    artifact stores bring classes of their own, which cannot all be imported here.
    """
    told = OSError(errno.ENOSPC, "") if _NO_SPACE.search(str(error)) and _http_status(error) is None else error
    if (full := full_disk(told)) is not None:
        return full
    code = str(getattr(error, "error_code", ""))
    status = _http_status(error)
    said = _reason(error, code)
    # An alias that nobody set is an invalid parameter to MLflow.
    no_alias = code == "INVALID_PARAMETER_VALUE" and said.endswith("not found")
    if code in _MISSING or status == _HTTP_MISSING or no_alias:
        return ModelVersionNotFoundError(f"Could not {doing}: {said}.", remedy="It may have been deleted.")
    if _UNKNOWN_NAME in said:
        name = urlsplit(server).netloc.rpartition("@")[2]
        return RegistryError(
            f"Could not {doing}: {_without_user(server)} does not answer by that name ({_UNKNOWN_NAME}).",
            remedy=f"Start mlflow server with --allowed-hosts '{name},localhost:*'.",
        )
    # MLflow's client says so of hosted registries, and calls that an internal error.
    if code in _NO_SUCH_CALL or (status is None and "is unsupported" in said):
        return RegistryError(
            f"Could not {doing}: {_without_user(server)} has no such call ({said}).",
            remedy="It may be older than what is asked of it, or hosted; docs/hosted.md says what is needed.",
        )
    if is_refused(error):
        right = "MANAGE" if doing.startswith(_DELETIONS) else "EDIT"
        return RegistryError(
            f"Could not {doing}: {_without_user(server)} refused it ({said}).",
            remedy=f"Give the worker's user {right} on the registered model and its experiment "
            "(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN).",
        )
    if _is_transient(error, code, status):
        return RegistryUnavailableError(
            f"Could not {doing}: {_without_user(server)} did not answer as it should ({said}).",
            remedy="Is the tracking server running and its artifact store reachable?",
        )
    return RegistryError(f"Could not {doing}: {said}.")


def is_refused(error: Exception) -> bool:
    """Whether the caller may not do what it asked for."""
    return str(getattr(error, "error_code", "")) in _FORBIDDEN or _http_status(error) in _HTTP_FORBIDDEN


def _is_transient(error: Exception, code: str, status: int | None) -> bool:
    if status is not None:
        return status >= _HTTP_SERVER_ERROR or status in _HTTP_TRANSIENT
    if code:
        return code in _TRANSIENT
    # Connection errors of requests, urllib3, botocore and sockets: OSError is the base of the first
    # and the last, and the other two name their classes so.
    return isinstance(error, OSError) or "Connection" in type(error).__name__ or "Timeout" in type(error).__name__


def _http_status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        metadata = response.get("ResponseMetadata", {})
        return metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _reason(error: Exception, code: str) -> str:
    """What the exception says, on one line, without MLflow's code and without a final full stop."""
    text = " ".join(str(getattr(error, "message", "") or error or type(error).__name__).split())
    text = text.removeprefix(f"{code}: ").rstrip(".")
    if "Max retries exceeded" in text:
        # The innermost cause says what is wrong; the layers around it repeat the URL.
        causes = _INNERMOST.findall(text)
        text = "".join(causes[-1]) if causes else text
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _without_user(server: str) -> str:
    """A URI without user name and password."""
    scheme, separator, rest = server.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else server
