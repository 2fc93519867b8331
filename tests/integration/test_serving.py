"""Exports as people use them: predicted with, served by MLflow, laid out for inference servers that then read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from registry_export import exports
from registry_export.cli.processes import started
from registry_export.config import parse_targets
from registry_export.discovery import discover_formats
from registry_export.entities import ModelVersionRef, Status
from registry_export.errors import ArtifactError, ConfigurationError, VerificationError
from registry_export.export import export_model_version
from registry_export.format import Toolchain
from registry_export.isolation import ChildPool, Limits
from registry_export.layouts import lay_out
from registry_export.registry import Registry
from tests.support.authors import authors
from tests.support.registered import TENSORFLOW, TORCH, rows
from tests.support.server import free_port

FORMATS = discover_formats()
QUICK = ("onnx", "torchscript", "saved_model", "openvino")
OTHERS = ("exported_program", "frozen_graph", "tflite", "coreml", "ncnn", "mnn", "executorch", "tensorrt")
EAGER = Toolchain("serving-tensorflow", ("tensorflow",))


class Site:
    """A server, and models on it with exports."""

    def __init__(self, uri, pool, folder):
        self.uri, self.pool, self.folder, self.registry = uri, pool, folder, Registry(uri)

    def made(self, name, builder, toolchain, targets):
        work = self.folder / name
        work.mkdir()
        arguments = {"uri": self.uri, "name": name}
        ref = ModelVersionRef(name, authors().call(toolchain, builder, arguments, work).value)
        return ref, self.export(ref, targets)

    def export(self, ref, targets):
        wanted = parse_targets(", ".join(targets), "test", FORMATS)
        return export_model_version(
            ref, targets=wanted, trigger="manual", registry=self.registry, formats=FORMATS, pool=self.pool
        )

    def lay_out(self, ref, target, server, output, **rest):
        return lay_out(ref.uri, target, server, output, registry=self.registry, formats=FORMATS, **rest)


@pytest.fixture(scope="module")
def site(mlflow_server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, ChildPool(Limits(timeout_s=300)) as pool:
        patch.setenv("PYTHONPATH", str(Path.cwd()))
        yield Site(mlflow_server.uri, pool, tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def ref(site):
    ref, report = site.made("served", "tests.support.registered:pickled", TORCH, QUICK)
    assert report.status is Status.VERIFIED, report.targets
    return ref


@pytest.fixture(scope="module")
def expected(site, ref, tmp_path_factory):
    """What the source says of `rows(3, 5)`."""
    arguments = {"uri": site.uri, "model": ref.uri}
    work = tmp_path_factory.mktemp("expected")
    return np.array(authors().call(TORCH, f"{__name__}:source_says", arguments, work).value, np.float32)


def source_says(arguments):
    import mlflow

    mlflow.set_tracking_uri(arguments["uri"])
    return np.asarray(mlflow.pyfunc.load_model(arguments["model"]).predict(rows(3, 5))).tolist()


def test_a_loaded_export_predicts_by_name_what_the_source_says(site, ref, expected):
    with exports.load(ref.uri, "onnx", registry=site.registry, formats=FORMATS) as runner:
        (name,) = [spec.name for spec in runner.interface.inputs]
        (output,) = [spec.name for spec in runner.interface.outputs]
        np.testing.assert_allclose(runner.predict({name: rows(3, 5)})[output], expected, atol=1e-5)
        np.testing.assert_allclose(runner.predict({name: rows(3, 5).tolist()})[output], expected, atol=1e-5)
        with pytest.raises(VerificationError, match=rf"Input {name} takes float32, and was given float64"):
            runner.predict({name: rows(3, 5).astype(np.float64)})
        with pytest.raises(VerificationError, match=r"takes the shape \(batch, 4\), and was given \(3, 5\)"):
            runner.predict({name: np.zeros((3, 5), np.float32)})


def answer_of(folder, data, log, patience_s=120.0):
    """Serve a folder with `mlflow models serve`, ask it once, and return the answer; its last words where it ends."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    # MLflow starts uvicorn by its name, as it finds it in an environment that is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PATH": path}
    with started([*command, "--port", str(port), "--workers", "1"], environment, log) as server:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        if server.poll() is not None:
            return log.read_text()
        body = json.dumps({"inputs": data.tolist()}).encode()
        json_body = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, json_body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"]


def pulled(site, ref, target, folder):
    exports.pull(ref.uri, target, folder, registry=site.registry, formats=FORMATS)
    return folder


@pytest.mark.parametrize("target", ["onnx", *(pytest.param(target, marks=pytest.mark.slow) for target in QUICK[1:])])
def test_mlflow_models_serve_answers_what_the_source_says(site, ref, expected, target, tmp_path):
    answer = answer_of(pulled(site, ref, target, tmp_path / "export"), rows(3, 5), tmp_path / "log")
    np.testing.assert_allclose(np.array(answer, np.float32), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target", OTHERS)
def test_mlflow_models_serve_takes_every_format_whose_runtime_is_here(site, ref, expected, target, tmp_path):
    (result,) = [result for result in site.export(ref, [target]).targets if result.variant == target]
    answer = answer_of(pulled(site, ref, target, tmp_path / "export"), rows(3, 5), tmp_path / "log")
    if result.status is Status.UNVERIFIED:
        assert "RuntimeAbsentError: " in answer, answer
        return
    np.testing.assert_allclose(np.array(answer, np.float32), expected, atol=1e-4)


@pytest.mark.slow
def test_mlflow_models_serve_takes_a_keras_file(site, tmp_path):
    builder = "tests.support.registered:keras_without_signature"
    ref, _ = site.made("served-keras", builder, TENSORFLOW, ["keras", "onnx"])
    answers = [
        answer_of(pulled(site, ref, target, tmp_path / target), rows(3, 5), tmp_path / f"{target}.log")
        for target in ("keras", "onnx")
    ]
    np.testing.assert_allclose(np.array(answers[0]), np.array(answers[1]), atol=1e-4)


def test_an_export_whose_runtime_is_not_installed_says_so_in_one_sentence(site, ref, tmp_path):
    folder = pulled(site, ref, "onnx", tmp_path / "export")
    script = "import sys; sys.modules['onnxruntime'] = None; import mlflow; mlflow.pyfunc.load_model(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Loading onnx needs packages that are not installed: onnxruntime. Run `pip install" in done.stderr


def test_tensorflow_loads_the_folder_of_tensorflow_serving_and_runs_its_warm_up(site, ref, tmp_path):
    laid = site.lay_out(ref, "saved_model", "tfserving", tmp_path / "models")
    assert laid.path == tmp_path / "models" / ref.name / ref.version
    outcome = site.pool.call(
        EAGER, f"{__name__}:run_warm_up", {"folder": str(laid.path)}, tmp_path, reads=(tmp_path / "models",)
    )
    shape, answer, alone = outcome.value
    assert shape == [1, 4]
    np.testing.assert_allclose(answer, alone, atol=1e-6)
    assert f'base_path: "/models/{ref.name}"' in (tmp_path / "models/models.config").read_text()


def run_warm_up(arguments):
    """Read the warm-up request as TensorFlow reads records and tensors, and run it; runs in a child."""
    import tensorflow as tf
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    from registry_export.layouts.tfserving import _MESSAGES

    folder = Path(arguments["folder"])
    (record,) = tf.data.TFRecordDataset(str(folder / "assets.extra/tf_serving_warmup_requests"))
    request = _MESSAGES["PredictionLog"].FromString(record.numpy()).predict_log.request
    feed = {}
    for name, tensor in request.inputs.items():
        feed[name] = tf.make_ndarray(TensorProto.FromString(tensor.SerializeToString()))
    (value,) = feed.values()
    run = tf.saved_model.load(str(folder)).signatures[request.model_spec.signature_name]
    (answer,) = run(**{name: tf.constant(array) for name, array in feed.items()}).values()
    (alone,) = run(**{name: tf.constant(rows(4)[:1]) for name in feed}).values()
    return list(value.shape), answer.numpy().tolist(), alone.numpy().tolist()


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_openvino_reads_the_folder_of_its_model_server(site, ref, expected, target, tmp_path):
    import openvino

    site.lay_out(ref, target, "openvino-model-server", tmp_path, name="net")
    (model,) = json.loads((tmp_path / "config.json").read_text())["model_config_list"]
    (version,) = (tmp_path / model["config"]["base_path"]).iterdir()
    (file,) = [path for path in version.iterdir() if path.suffix in (".xml", ".onnx")]
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (answer,) = compiled([rows(3, 5)]).values()
    np.testing.assert_allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("target", ["onnx", "torchscript", "saved_model", "openvino"])
def test_tritons_folder_names_the_tensors_of_the_file_in_it(site, ref, target, tmp_path):
    laid = site.lay_out(ref, target, "triton", tmp_path)
    config = (tmp_path / ref.name / "config.pbtxt").read_text()
    file = {"onnx": "model.onnx", "torchscript": "model.pt", "saved_model": "model.savedmodel", "openvino": "model.xml"}
    assert (laid.path / file[target]).exists()
    assert next((tmp_path / ref.name / "warmup").glob("*.bin")).stat().st_size == 16
    if target == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(laid.path / "model.onnx")
        assert f'name: "{session.get_inputs()[0].name}"' in config
        assert f'name: "{session.get_outputs()[0].name}"' in config


def test_a_second_version_joins_the_first_and_a_pair_that_does_not_fit_changes_nothing(site, ref, tmp_path):
    site.lay_out(ref, "onnx", "triton", tmp_path)
    (tmp_path / ref.name / "7").mkdir()
    site.lay_out(ref, "onnx", "triton", tmp_path)
    assert sorted(path.name for path in (tmp_path / ref.name).iterdir()) == ["1", "7", "config.pbtxt", "warmup"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match=r"tfserving loads no onnx\. It loads: saved_model\."):
        site.lay_out(ref, "onnx", "tfserving", tmp_path)
    with pytest.raises(ArtifactError, match=r"no export 'keras' \(it has: .*openvino"):
        site.lay_out(ref, "keras", "openvino-model-server", tmp_path)
    with pytest.raises(ArtifactError, match=r"no export 'onxx'; did you mean 'onnx'\?"):
        site.lay_out(ref, "onxx", "triton", tmp_path)
    with pytest.raises(ConfigurationError, match="no name for a server's model"):
        site.lay_out(ref, "onnx", "triton", tmp_path, name="../x")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_prints_the_folder_and_how_it_is_served(site, ref, tmp_path):
    command = [sys.executable, "-m", "registry_export.cli", "layout", ref.uri, "--target", "onnx", "--for", "triton"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "models"],
        capture_output=True, text=True, check=False,
        # As an import of onnxruntime-extensions leaves it: this implementation takes no names of enumerations.
        env={**os.environ, "MLFLOW_TRACKING_URI": site.uri, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/models/{ref.name}/{ref.version}\n"
    assert f"Serve it: docker run --rm -p 8000:8000 -v {tmp_path}/models:/models " in done.stderr


TRITON_READS = """
import sys
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
(warm,) = config.model_warmup[0].inputs.values()
print(config.platform, config.max_batch_size, list(config.input[0].dims), list(warm.dims))
"""
TENSORFLOW_SERVING_READS = """
import sys
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2
text_format.Parse(open(sys.argv[1]).read(), model_server_config_pb2.ModelServerConfig())
(record,) = tf.data.TFRecordDataset(sys.argv[2])
request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
((_, value),) = request.inputs.items()
print(request.model_spec.name, request.model_spec.signature_name, tf.make_ndarray(value).shape)
"""


@pytest.mark.slow
def test_the_servers_own_protocol_buffers_read_what_is_written(site, ref, tmp_path):
    site.lay_out(ref, "onnx", "triton", tmp_path / "triton")
    laid = site.lay_out(ref, "saved_model", "tfserving", tmp_path / "tfserving")
    uv = [Path(sys.executable).parent / "uv"]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, theirs], check=True)
    python = theirs / "bin/python"
    subprocess.run([*uv, "pip", "install", "-q", "--python", python, "tritonclient[grpc]==2.73.0"], check=True)
    api = ["--no-deps", "tensorflow-serving-api==2.21.0"]
    subprocess.run([*uv, "pip", "install", "-q", "--python", sys.executable, "--target", ours, *api], check=True)
    config = tmp_path / "triton" / ref.name / "config.pbtxt"
    said = subprocess.check_output([python, "-c", TRITON_READS, config], text=True)
    assert said == "onnxruntime_onnx 8 [4] [4]\n"
    record = laid.path / "assets.extra/tf_serving_warmup_requests"
    command = [sys.executable, "-c", TENSORFLOW_SERVING_READS, tmp_path / "tfserving/models.config", record]
    said = subprocess.check_output(command, text=True, env={**os.environ, "PYTHONPATH": str(ours)})
    assert said.splitlines()[-1] == f"{ref.name} serving_default (1, 4)"
