"""Ctrl-C in whichever command, while it waits for a server that says nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.proxy import HANG, Proxy

COMMANDS = {
    "export": ["export", "models:/m/1"],
    "verify": ["verify", "models:/m/1"],
    "plan": ["plan", "models:/m/1"],
    "pull": ["pull", "models:/m/1", "--target", "onnx", "--output", "out"],
    "doctor": ["doctor"],
    "diff": ["diff", "models:/m/1", "models:/m/2"],  # `inspect` and `view` fetch as it does
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """What each command said and left: exit code, stdout, stderr, files."""
    folders = {name: tmp_path_factory.mktemp(name) for name in COMMANDS}
    processes = {}
    with Proxy(9) as silent, contextlib.ExitStack() as running:
        silent.treat = lambda _method, _path: HANG
        for name, arguments in COMMANDS.items():
            (folders[name] / "tmp").mkdir()
            environ = {
                **os.environ,
                "MLFLOW_TRACKING_URI": f"{silent.uri}/{name}",
                "REGISTRY_EXPORT_LEDGER_URI": f"sqlite:///{folders[name] / 'tmp' / 'ledger.db'}",
                "TMPDIR": str(folders[name] / "tmp"),
            }
            command = [sys.executable, "-m", "registry_export.cli", *arguments]
            processes[name] = subprocess.Popen(
                command, cwd=folders[name], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            running.callback(processes[name].kill)
        deadline = time.monotonic() + 300
        while waiting := set(COMMANDS) - {path.split("/")[1] for _, path, _ in silent.seen}:
            assert time.monotonic() < deadline, waiting
            time.sleep(0.1)
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        said = {name: process.communicate(timeout=60) for name, process in processes.items()}
    left = {name: {path.name for path in folder.rglob("*")} - {"tmp"} for name, folder in folders.items()}
    return {name: (processes[name].returncode, *said[name], left[name]) for name in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line_and_130_and_leaves_nothing(interrupted, command):
    code, _out, error, left = interrupted[command]
    assert code == 130
    assert error.strip().splitlines() == ["Stopped. What was published stays; run it again to go on."]
    assert {name for name in left if not name.startswith("ledger.db")} == set()
