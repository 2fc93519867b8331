"""The tutorials, followed: their rules, their server, and every line of Python that they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registry_export.cli.processes import started, wait_until_healthy
from tests.support.server import free_port

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What a reader's second terminal has, after `index.md`."""
    folder, port = tmp_path_factory.mktemp("try"), free_port()
    (rules,) = re.findall(
        r"cat > registry-export.yaml <<'END'\n(.*?)END\n", (TUTORIALS / "index.md").read_text(), re.DOTALL
    )
    (folder / "registry-export.yaml").write_text(rules)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "REGISTRY_EXPORT_"))}
    clean |= {
        "REGISTRY_EXPORT_CONFIG": str(folder / "registry-export.yaml"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    command = [sys.executable, "-m", "registry_export.cli", "server", "--port", str(port), "--workers", "1", *store]
    url = f"http://127.0.0.1:{port}"
    with started(command, clean, folder / "log") as server:
        wait_until_healthy(server, url)
        yield clean | {"MLFLOW_TRACKING_URI": url}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "verified", "printed"),
    [
        ("pytorch.md", ("onnx", "tflite"), r"tflite ai-edge-litert \S+ (0\.9\d|1\.0)"),
        ("keras.md", ("onnx", "tflite"), r"^(0\.[89]\d*|1\.0)$"),
        ("onnx.md", ("onnx", "tflite"), r"ai-edge-litert \S+ 0\.8[89]"),
        ("transformers.md", ("onnx", "tflite"), r"\['input_ids', 'attention_mask'\] \S*e-(0[6-9]|1\d)"),
    ],
)
def test_a_tutorial_ends_with_exports_that_are_verified_and_right(environment, tmp_path, page, verified, printed):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL))
    followed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "registry_export.status verified" in followed.stdout, followed.stdout
    for variant in verified:
        assert f"registry_export.{variant} verified" in followed.stdout
    assert re.search(printed, followed.stdout, re.MULTILINE), followed.stdout
