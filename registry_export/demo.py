"""The whole story in one command: train, register, promote, and see the formats appear.

Everything is real: an `mlflow server`, a worker, and a promotion through the REST API.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from registry_export.cli.processes import started, wait_until_healthy
from registry_export.cli.tables import print_targets
from registry_export.entities import ModelVersionRef
from registry_export.errors import RegistryExportError
from registry_export.page import read_report
from registry_export.registry import Registry

_MODEL = "digits"
_PREFERRED_PORT = 5000
_PATIENCE_S = 600.0
_FINAL = ("verified", "unverified", "mismatch", "failed")

_RULES = """\
rules:
  - models: "*"
    promotions: {stages: [Staging, Production], aliases: [champion]}
    targets:
      - onnx
      - onnx: {opset_version: 17}
      - torchscript
      - exported_program
      - saved_model
      - tflite
"""


def run_demo(*, keep: bool) -> int:
    """Run it.

    Args:
        keep: Leave the server running until Ctrl-C.

    Returns:
        The exit code: 0 when every format was verified.

    Raises:
        RegistryExportError: A part of it did not start, or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="registry-export-demo-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        url, worker = _start(folder, running)
        version = _train_and_register(url)
        _promote(url, version)
        status = _await_export(url, version, worker)
        report = read_report(Registry(url), ModelVersionRef(_MODEL, version))
        print()
        print_targets(report.targets if report else ())
        print(f"\n{_MODEL}/{version}: {status}\nThe version's page: {url}/#/models/{_MODEL}/versions/{version}")
        if keep:
            print("The server keeps running, and the worker exports what you promote there. Ctrl-C stops both.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return int(status not in ("verified", "unverified"))


def _start(folder: Path, running: contextlib.ExitStack) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the server and the worker; return the server's address and the worker."""
    port = _free_port()
    url, database = f"http://127.0.0.1:{port}", f"sqlite:///{folder / 'mlflow.db'}"
    (folder / "registry-export.yaml").write_text(_RULES)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": url,
        "REGISTRY_EXPORT_OUTBOX_URI": database,
        "REGISTRY_EXPORT_LEDGER_URI": database,  # never the one that the user works with
        "REGISTRY_EXPORT_CONFIG": str(folder / "registry-export.yaml"),
        "PYTHONUNBUFFERED": "1",
    }
    print("Starting `mlflow server` as always (no flag, no URI of ours) ...", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--backend-store-uri", database]
    server += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    log = folder / "server.log"
    process = running.enter_context(started(server, {**os.environ, "MLFLOW_TRACKING_URI": ""}, log))
    try:
        wait_until_healthy(process, url)
    except RegistryExportError as error:
        raise RegistryExportError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error
    print(f"It answers at {url}. Starting `registry-export worker` with these rules:\n\n{_RULES}", flush=True)
    return url, running.enter_context(started([sys.executable, "-m", "registry_export.cli", "worker"], environment))


def _free_port() -> int:
    for port in (_PREFERRED_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise RegistryExportError("No TCP port of 127.0.0.1 is free.")


def _train_and_register(url: str) -> str:
    """Train a small convolutional net on scikit-learn's digits and register it as MLflow's users do."""
    print("Training a small classifier on scikit-learn's handwritten digits ...", flush=True)
    os.environ.update({"MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true"})
    import logging

    import mlflow
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, torch.tensor(labels), random_state=0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(32 * 16, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(train_x), train_y).backward()
        optimizer.step()
    net.eval()
    accuracy = (net(test_x).argmax(1) == test_y).float().mean().item()
    mlflow.set_experiment("digits")
    with mlflow.start_run():
        mlflow.log_metric("accuracy", accuracy)
        logged = mlflow.pytorch.log_model(
            net,
            name="model",
            input_example=test_x[:4].numpy(),
            registered_model_name=_MODEL,
            pip_requirements=["torch"],  # else MLflow loads the model again to find out
        )
    version = str(logged.registered_model_version)
    print(f"Test accuracy {accuracy:.3f}. Registered as {_MODEL}, version {version}.", flush=True)
    return version


def _promote(url: str, version: str) -> None:
    print(f"Promoting {_MODEL}/{version} to Staging through the REST API ...\n", flush=True)
    body = {"name": _MODEL, "version": version, "stage": "Staging", "archive_existing_versions": False}
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/model-versions/transition-stage",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def _await_export(url: str, version: str, worker: subprocess.Popen[bytes]) -> str:
    registry, ref = Registry(url), ModelVersionRef(_MODEL, version)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        status = registry.version(ref).tags.get("registry_export.status", "")
        if status in _FINAL:
            return status
        if worker.poll() is not None:
            raise RegistryExportError(f"The worker ended with exit status {worker.returncode}.")
        time.sleep(0.5)
    raise RegistryExportError(f"The export did not end within {_PATIENCE_S:.0f} seconds.")
