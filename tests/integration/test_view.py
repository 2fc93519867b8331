"""A model's graph, drawn by Netron in a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import free_port

pytest.importorskip("netron", reason="the extra `view`")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def model(tmp_path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Softplus", ["x"], ["y"])], "only", [x], [y])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


@contextlib.contextmanager
def viewing(model: Path, port: int):
    command = [sys.executable, "-m", "registry_export.cli", "view", str(model), "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.slow
def test_the_graph_is_drawn_in_a_browser_and_ctrl_c_ends_it(model):
    from playwright.sync_api import sync_playwright

    port = free_port()
    with viewing(model, port) as process:
        lines = iter(process.stdout.readline, "")
        assert any(f"127.0.0.1:{port}. Ctrl-C stops it." in line for line in lines)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_text("Accept").click(timeout=30_000)  # asked where its page cannot tell the country
            page.get_by_text("Softplus").first.wait_for(timeout=30_000)
            browser.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, 130)
