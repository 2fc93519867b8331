"""What the exceptions of MLflow and of this machine are called in our tree."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from registry_export.registry.calls import translate

FULL = OSError(errno.ENOSPC, "No space left on device")


def with_response(error, status):
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    "error", [FULL, MlflowException(f"Could not download some artifacts:\n##### File x #####\n{FULL!r}")]
)
def test_a_full_disk_of_this_machine_is_not_blamed_on_the_server(error, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = translate(error, "download net/1", "http://mlflow:5000")
    assert told.message == f"No space is left for temporary files ({tmp_path})."
    assert "TMPDIR" in told.remedy
    assert told.transient


def test_a_full_disk_of_the_server_is_the_servers():
    told = translate(with_response(OSError(f"500: {FULL!r}"), 500), "download net/1", "http://mlflow:5000")
    assert "http://mlflow:5000 did not answer" in told.message
