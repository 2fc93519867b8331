"""Serve the ONNX export of a promoted version with MLServer, and compare its answers with the source's."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np

import registry_export

HERE = Path(__file__).parent
REQUIREMENTS = ("mlserver==1.7.1", "onnxruntime")
PORT = int(os.environ.get("PORT", "8080"))
KINDS = {"f": "FP", "i": "INT", "u": "UINT"}


def main(model_uri: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with registry_export.load(model_uri, target) as runner:  # checks digests before anybody serves it
            print(f"{target} of {model_uri} takes {', '.join(spec.name for spec in runner.interface.inputs)}")
        model = Path(folder, "model")
        registry_export.pull(model_uri, target, model)
        settings = {"name": "model", "implementation": "onnx_runtime.OnnxModel", "parameters": {"uri": "./model.onnx"}}
        (model / "model-settings.json").write_text(json.dumps(settings))
        server_settings = {"http_port": PORT, "grpc_port": PORT + 1, "metrics_port": PORT + 2, "parallel_workers": 0}
        Path(folder, "settings.json").write_text(json.dumps({"host": "127.0.0.1", **server_settings}))
        with served(folder):
            compare(model_uri)


def environment() -> Path:
    """MLServer's own: it wants an older protobuf and an older FastAPI than MLflow."""
    place = HERE / ".venv-mlserver"
    if not (place / "bin" / "mlserver").exists():
        print(f"making an environment with {', '.join(REQUIREMENTS)}")
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        python = place / "bin" / "python"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *REQUIREMENTS], check=True)
    return place / "bin" / "mlserver"


@contextlib.contextmanager
def served(folder: str):
    """Run MLServer on a folder of models while the block lasts."""
    known = {"PATH", "HOME", "TMPDIR", "LANG"}  # it needs no key of the registry
    variables = {name: value for name, value in os.environ.items() if name in known} | {"PYTHONPATH": str(HERE)}
    process = subprocess.Popen([environment(), "start", folder], env=variables, stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(process)
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/models/model/ready"):
            return
        time.sleep(0.2)
    sys.exit("MLServer did not start.")


def compare(model_uri: str) -> None:
    """Ask MLServer and the source the same, and print how far apart their answers are."""
    source = mlflow.pyfunc.load_model(model_uri)
    example = source.input_example
    named = example if isinstance(example, dict) else {source.metadata.get_input_schema().input_names()[0]: example}
    expected = source.predict(example)
    answer = ask({name: np.asarray(array) for name, array in named.items()})
    for name, array in answer.items():
        own = expected[name] if isinstance(expected, dict) else expected
        print(f"{name}: {array.shape}, max abs diff to the source {np.abs(array - np.asarray(own)).max():.1e}")


def ask(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Call the Open Inference Protocol: arrays by name in, arrays by name out."""
    tensors = [
        {"name": name, "shape": array.shape, "datatype": datatype(array), "data": array.ravel().tolist()}
        for name, array in inputs.items()
    ]
    body = json.dumps({"inputs": tensors}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v2/models/model/infer", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        outputs = json.load(answer)["outputs"]
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}


def datatype(array: np.ndarray) -> str:
    return f"{KINDS[array.dtype.kind]}{8 * array.dtype.itemsize}" if array.dtype.kind in KINDS else "BOOL"


if __name__ == "__main__":
    if "MLFLOW_TRACKING_URI" not in os.environ:
        sys.exit("Set MLFLOW_TRACKING_URI first, as in MLFLOW_TRACKING_URI=http://127.0.0.1:5000.")
    main(*(sys.argv[1:] or ("models:/nearest-mean@champion", "onnx:opset_version=21")))
