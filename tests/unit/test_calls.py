"""What the exceptions of MLflow and of this machine are called in our tree."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, NOT_IMPLEMENTED

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


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("No API found for this path.", ENDPOINT_NOT_FOUND),
        MlflowException("Not here.", NOT_IMPLEMENTED),
        MlflowException(
            "Method 'get_model_version_by_alias' is unsupported for models in the Workspace Model Registry."
        ),
    ],
    ids=["unknown", "not implemented", "of a client for a hosted registry"],
)
def test_a_call_that_a_server_does_not_have_is_not_tried_again(error):
    told = translate(error, "find models:/net@champion", "https://me:pass@mlflow")
    assert told.message.startswith("Could not find models:/net@champion: https://mlflow has no such call (")
    assert "docs/hosted.md" in told.remedy
    assert not told.transient
