"""The examples do what their READMEs say."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.server import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def with_c_array(tmp_path_factory):
    """The environment of processes that have the third-party package installed; this one has not."""
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(EXAMPLES / "third_party_format", folder / "source", ignore=shutil.ignore_patterns("*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "--target", folder / "installed", folder / "source"], dict(os.environ))
    path = os.pathsep.join(filter(None, [str(folder / "installed"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def run(command, environment, **rest) -> str:
    finished = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, **rest)
    assert finished.returncode == 0, f"{finished.stdout[-6000:]}\n{finished.stderr[-3000:]}"
    return finished.stdout


def test_a_strangers_format_is_listed_with_its_sources_and_its_option(with_c_array):
    printed = run([sys.executable, "-m", "registry_export.cli", "formats", "c_array"], with_c_array)
    assert re.search(r"c_array +yes +PyTorch\*, Keras\*, TensorFlow\*, ONNX\*", printed), printed
    assert re.search(r"symbol +str +model_onnx", printed), printed


@pytest.mark.slow
def test_the_contract_suite_passes_on_a_strangers_format(with_c_array):
    suite = ["tests/contract/test_formats.py", "-k", "[pytorch-c_array] or [onnx-c_array]"]
    printed = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suite], with_c_array)
    # What it may leave out (how it is loaded, what is in its file) is skipped.
    assert re.search(r"^8 passed, 4 skipped", printed, re.MULTILINE), printed


HEADER_TO_BYTES = """
#include <stdio.h>
#include "model.h"
int main(void) { return fwrite(digits, 1, digits_len, stdout) != digits_len; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_header_compiles_to_the_very_bytes_of_the_onnx_file(with_c_array, tmp_path):
    script = """
import sys
import time
import urllib.request
from pathlib import Path
import onnx
from onnx import TensorProto, helper
from registry_export.entities import Interface
from registry_export.format import ConversionRequest
from registry_export_c_array import CArray
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", value[:1], value[1:])
folder = Path(sys.argv[1])
onnx.save(helper.make_model(graph), folder / "model.onnx")
request = ConversionRequest({"symbol": "digits"}, Interface(()), {}, folder)
CArray.conversions[0].function(folder / "model.onnx", folder / "model.h", request)
"""
    run([sys.executable, "-c", script, tmp_path], with_c_array)
    (tmp_path / "main.c").write_text(HEADER_TO_BYTES)
    run(["cc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "main", tmp_path / "main.c"], dict(os.environ))
    assert subprocess.check_output([tmp_path / "main"]) == (tmp_path / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    """`registry-export server` with the examples' rules, as their READMEs start it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    environment = {**os.environ, "REGISTRY_EXPORT_CONFIG": str(EXAMPLES / "registry-export.yaml")}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # MLflow's own jobs: not needed, and slow to stop
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "registry_export.cli", "server", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_until_healthy(process, url, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        (
            "onnx_model/nearest_mean.py",
            ("onnx-opset21: verified", "saved_model: verified", "saved_model: accuracy 0.9"),
        ),
        pytest.param(
            "digits_pytorch/digits.py",
            ("onnx-opset17: verified", "torchscript: verified", "onnx: accuracy 0.9", "tflite: accuracy 0.9"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "detection_nms/detection.py",
            ("onnx: verified", "boxes as PyTorch's: True", "found 9"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "keras_model/wine.py",
            ("onnx: verified", "saved_model: verified", "tflite: accuracy 0.9"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "variants/variants.py",
            ("onnx-int8-dynamic       verified", "on the front", "onnx-ln_structured50    mismatch"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_example_promotes_its_model_and_predicts_with_the_exports(tracking_uri, script, printed):
    output = run([sys.executable, EXAMPLES / script], {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri})
    assert "registry_export.status: verified" in output, output
    for line in printed:
        assert line in output, output


@pytest.mark.slow
def test_an_inference_server_answers_what_the_source_says(tracking_uri):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PORT": str(free_port())}
    run([sys.executable, EXAMPLES / "onnx_model" / "nearest_mean.py"], environment)
    printed = run([sys.executable, EXAMPLES / "serving" / "serve.py"], environment)
    differences = dict(re.findall(r"^(scores|digit): .* max abs diff to the source (\S+)$", printed, re.MULTILINE))
    assert differences.keys() == {"scores", "digit"}, printed
    assert all(float(difference) < 1e-4 for difference in differences.values()), printed


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_verifies_everything():
    printed = run([sys.executable, str(EXAMPLES / "dask_cluster" / "cluster.py")], dict(os.environ))
    assert "killed the Dask worker" in printed
    assert printed.count(": verified") == 12
    assert "is gone; what it was doing is begun again" in printed
    assert "left in the store between the machines: 0 files" in printed
