"""The command line and the Python functions against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

import registry_export
from registry_export.cli import main
from registry_export.entities import ModelVersionRef
from registry_export.ledger import Ledger
from registry_export.registry import Registry
from tests.support.authors import authors
from tests.support.registered import TORCH, rows
from tests.support.server import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def digits(mlflow_server, tmp_path_factory) -> ModelVersionRef:
    """A small torch net, version 1 of `cli-digits`."""
    work = tmp_path_factory.mktemp("cli")
    arguments = {"uri": mlflow_server.uri, "name": "cli-digits"}
    version = authors().call(TORCH, "tests.support.registered:pickled", arguments, work).value
    return ModelVersionRef("cli-digits", version)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}")
    ledger.migrate()
    return ledger


@pytest.fixture(autouse=True)
def _environment(mlflow_server, ledger, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", str(ledger.database.engine.url))
    monkeypatch.delenv("REGISTRY_EXPORT_CONFIG", raising=False)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_an_export_shows_its_steps_its_table_and_its_page_and_is_a_job(digits, ledger, mlflow_server, capsys):
    assert run("export", digits.uri, "--target", "torchscript", "--force") == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [line.split()[:2] for line in lines]
    for step in ("download", "reference", "publish"):
        assert any(words[:1] == [step] for words in steps)
    assert ["verify", "torchscript"] in steps
    assert any(line.split()[:2] == ["torchscript", "verified"] for line in lines)
    assert lines[-1].endswith(f"verified - {mlflow_server.uri}/#/models/cli-digits/versions/{digits.version}")
    job = ledger.list(ref=digits)[0]
    assert (job.state, job.status, job.trigger, job.targets) == ("done", "verified", "manual", "torchscript")
    tags = MlflowClient().get_run(job.run_id).data.tags
    assert tags["registry_export.job"].startswith(f"{job.id}-"), (
        "nobody could end the run of an attempt that was killed"
    )
    assert run("jobs") == 0
    assert str(digits) in capsys.readouterr().out


def test_an_export_is_kept_pulled_and_loaded(digits, capsys, tmp_path):
    assert run("export", digits.uri, "--target", "torchscript", "--json") == 0
    captured = capsys.readouterr()
    result = {target["variant"]: target for target in json.loads(captured.out)["targets"]}["torchscript"]
    assert result["status"] == "verified"
    assert "verified before" in captured.err or not result["reused"]
    assert run("pull", digits.uri, "--target", "torchscript", "--output", str(tmp_path / "out")) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == tmp_path / "out"
    assert path.stat().st_size == result["size_bytes"]
    with registry_export.load(digits.uri, "torchscript") as runner:
        name = runner.interface.inputs[0].name
        (output,) = runner.infer({name: rows(5)}).values()
    assert output.shape == (5, 3)
    assert np.isfinite(output).all()


def test_python_gets_the_report(digits):
    report = registry_export.export(digits.uri, targets=["torchscript"])
    assert report.status == "verified"
    assert "torchscript" in {target.variant for target in report.targets}


@pytest.mark.slow
def test_what_a_version_and_its_exports_hold_is_told_and_compared(digits, capsys, tmp_path):
    assert run("export", digits.uri, "--target", "onnx,torchscript") == 0
    capsys.readouterr()
    assert run("inspect", digits.uri, "--json") == 0
    source = json.loads(capsys.readouterr().out)
    assert run("inspect", f"{digits.uri}#onnx", "--json") == 0
    onnx = json.loads(capsys.readouterr().out)
    assert onnx["parameters"] == source["parameters"] > 0
    assert onnx["opset_version"] == 20
    assert run("inspect", digits.uri, "--target", "onnx") == 0
    told = capsys.readouterr().out
    assert f"{onnx['parameters']:,} parameters" in told
    assert "Gemm" in told
    assert run("inspect", digits.uri, "--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text()
    assert source["tensors"][0]["name"] in page
    assert "http" not in page.replace("http-equiv", "")
    capsys.readouterr()
    assert run("diff", digits.uri, f"{digits.uri}#torchscript", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    # Ours is a module around the author's, so the same elements have another name.
    assert {tensor["change"] for tensor in found["tensors"]} <= {"renamed"}
    assert found["equal_tensors"] + len(found["tensors"]) == source["tensor_count"]
    assert found["facts"]["format"] == ["pytorch", "torchscript"]
    assert run("diff", f"{digits.uri}#onnx", f"{digits.uri}#onnx") == 0
    assert "hold the same" in capsys.readouterr().out
    assert run("inspect", digits.uri, "--target", "mnn") == 1
    assert "has no export 'mnn'" in capsys.readouterr().err


def test_a_file_of_ones_own_is_told_by_its_name_or_by_a_word(digits, capsys, tmp_path):
    assert run("export", digits.uri, "--target", "onnx") == 0
    capsys.readouterr()
    assert run("pull", digits.uri, "--target", "onnx", "--output", str(tmp_path / "pulled")) == 0
    file = Path(capsys.readouterr().out.strip())
    (tmp_path / "renamed.bin").write_bytes(file.read_bytes())
    for arguments in ([str(file)], [str(file.parent)], [str(tmp_path / "renamed.bin"), "--format", "onnx"]):
        assert run("inspect", *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out)["opset_version"] == 20
    assert run("inspect", str(tmp_path / "nothing.onnx")) == 2
    assert "There is no file" in capsys.readouterr().err
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x0aonnx?")
    assert run("inspect", str(tmp_path / "torn.onnx")) == 1
    assert "torn.onnx cannot be read as ONNX" in capsys.readouterr().err


def test_a_plan_says_which_runtimes_take_what_would_be_made(digits, capsys):
    assert run("plan", digits.uri, "--target", "onnx", "--runtime", "onnxruntime=1.16") == 0
    told = capsys.readouterr().out
    assert "ONNX Runtime 1.17 or newer (opset 20)" in told
    assert "onnx: Warning: It is to be read by onnxruntime 1.16" in told
    assert run("plan", digits.uri, "--target", "onnx", "--runtime", "onnxruntime") == 2


def test_a_plan_names_the_way_and_why_there_is_none(digits, capsys):
    assert run("plan", digits.uri, "--target", "torchscript") == 0
    shown = capsys.readouterr().out
    assert "pytorch -> torchscript" in shown
    assert "targets from: --target" in shown
    assert run("plan", digits.uri, "--target", "tflite:precision=int8") == 0
    assert "pytorch -> tflite (litert-torch)" in capsys.readouterr().out
    assert run("plan", digits.uri, "--target", "torchscript", "--json") == 0
    assert json.loads(capsys.readouterr().out)["source_format"] == "pytorch"


def test_the_models_tag_and_then_the_rules_say_which_targets(digits, mlflow_server, capsys):
    Path("registry-export.yaml").write_text("rules: [{models: cli-*, targets: [torchscript: {freeze: true}]}]")
    assert run("plan", digits.uri) == 0
    shown = capsys.readouterr().out
    assert "torchscript-" in shown
    assert f"targets from: {Path('registry-export.yaml').resolve()}" in shown
    import mlflow

    client = mlflow.MlflowClient(mlflow_server.uri)
    client.set_registered_model_tag("cli-digits", "registry_export.targets", "exported_program")
    try:
        assert run("plan", digits.uri) == 0
        shown = capsys.readouterr().out
        assert "exported_program" in shown
        assert "targets from: the tag registry_export.targets" in shown
        client.set_registered_model_tag("cli-digits", "registry_export.targets", "bogus")
        assert run("plan", digits.uri) == 2
        assert "registry_export.targets" in capsys.readouterr().err
    finally:
        client.delete_registered_model_tag("cli-digits", "registry_export.targets")
    Path("registry-export.yaml").write_text("rules: [{models: other, targets: [torchscript]}]")
    assert run("plan", digits.uri) == 2
    assert "no rule's 'models' matches 'cli-digits'" in capsys.readouterr().err


def test_without_a_ledger_it_works_alone_and_says_so(digits, monkeypatch, capsys):
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", "sqlite:////proc/nowhere/ledger.db")
    assert run("export", digits.uri, "--target", "torchscript") == 0
    assert "Works alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "uri", ["models:/cli-digits/99", "models:/nobody/1", "models:/cli-digits@nobody", "models:/cli-digits/Archived"]
)
def test_a_version_that_is_not_there_is_a_sentence_and_a_usage_error(digits, uri, capsys):
    assert run("export", uri, "--target", "torchscript") == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("uri", ["digits/1", "runs:/abc/model", "models:/", "models:/cli-digits/v1"])
def test_what_is_no_models_uri_is_a_usage_error(uri):
    assert run("export", uri, "--target", "torchscript") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_export_and_leaves_no_running_tag_job_folder_or_process(
    digits, ledger, mlflow_server, number, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = Registry(mlflow_server.uri).version(digits).tags.get("registry_export.status")
    command = [sys.executable, "-m", "registry_export.cli", "export", digits.uri, "--target", "torchscript", "--force"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.split()[:1] == ["download"]:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1].startswith("Stopped.")
    assert "Traceback" not in error
    assert ledger.list(ref=digits)[0].state == "cancelled"
    assert Registry(mlflow_server.uri).version(digits).tags.get("registry_export.status") == before
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not list(tmp_path.iterdir())


def test_mlflow_run_exports_with_the_environment_that_is_there(digits, ledger):
    scripts = Path(sys.executable).parent
    command = [str(scripts / "mlflow"), "run", ".", "-e", "export", "-P", f"model_uri={digits.uri}"]
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    newest = ledger.list(ref=digits)[0].id
    targets = [*command, "-P", "targets=torchscript", "--env-manager", "local"]
    done = subprocess.run(targets, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torchscript" in done.stdout
    assert ledger.list(ref=digits)[0].id > newest


def test_server_starts_mlflow_and_a_worker_and_stops_both(tmp_path):
    (tmp_path / "registry-export.yaml").write_text("rules: [{models: none-of-them, targets: [torchscript]}]")
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = [sys.executable, "-m", "registry_export.cli", "server", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "exports what is promoted at" in line:
            break
    else:
        pytest.fail("".join(lines))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        assert answer.status == 200
    assert (tmp_path / "mlflow.db").exists()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - began < 30
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
