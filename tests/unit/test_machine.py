"""The cores and the memory that are ours, not those that are built in."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from registry_export import machine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_is_kept_to_one_core_has_one():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from registry_export.machine import cores; print(cores())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1"]


@pytest.mark.parametrize(("limit", "free"), [("5000", 3000), ("1000", 0), ("max", None), (None, None)])
def test_a_containers_limit_counts_where_there_is_one(tmp_path, monkeypatch, limit, free):
    if limit is not None:
        (tmp_path / "max").write_text(f"{limit}\n")
        (tmp_path / "current").write_text("2000\n")
    monkeypatch.setattr(machine, "_GROUPS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    if free is None:
        assert 0 < machine.available_bytes() <= psutil.virtual_memory().total
    else:
        assert machine.available_bytes() == free
