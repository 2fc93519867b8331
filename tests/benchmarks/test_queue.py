"""Many small promotions queued at once: the last of them takes no longer than the first."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from registry_export.entities import ModelVersionRef
from registry_export.ledger import WAITING, JobState, Ledger
from registry_export.registry import Registry
from tests.benchmarks.figures import Figure
from tests.benchmarks.promotions import Bed

AT_MOST = 1.2
_QUEUED = int(os.environ.get("QUEUE_OF", "200"))
_AT_AN_END = max(5, _QUEUED // 10)
_PATIENCE_S = 3000.0
_MAKE = """
import shutil, sys, torch
from pathlib import Path
from tests.benchmarks.checkpoints import build
logged, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for version in range(2, count + 1):
    made = folder / str(version)
    shutil.copytree(logged, made)
    torch.save(build("small", version), made / "data/model.pth")
"""

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning"),
]


def register(bed: Bed) -> None:
    """Register versions of one architecture whose weights all differ; nothing of one export serves another."""
    bed.log("small", 1)
    folder = bed.folder / "versions"
    logged = Registry(bed.client.tracking_uri).download(ModelVersionRef("small", "1"), folder / "1")
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", _MAKE, logged, str(folder), str(_QUEUED)], check=True, env=environ)
    for number in range(2, _QUEUED + 1):
        run = bed.client.create_run("0").info
        bed.client.log_artifacts(run.run_id, str(folder / str(number)), "model")
        bed.client.create_model_version("small", f"{run.artifact_uri}/model", run.run_id)


def test_the_last_of_many_promotions_takes_no_longer_than_the_first(tmp_path):
    ledger_uri = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger(ledger_uri)
    ledger.migrate()
    with Bed(tmp_path, {"small": ("torchscript",)}) as bed:
        register(bed)
        for number in range(1, _QUEUED + 1):
            bed.client.transition_model_version_stage("small", str(number), "Staging")
        with bed.worker(environ={"REGISTRY_EXPORT_LEDGER_URI": ledger_uri}) as worker:
            deadline = time.monotonic() + _PATIENCE_S
            while len(ledger.list(limit=_QUEUED)) < _QUEUED or ledger.list((*WAITING, JobState.RUNNING)):
                assert worker.process.poll() is None, worker.log
                assert time.monotonic() < deadline, worker.log
                time.sleep(0.5)
    jobs = ledger.list(limit=_QUEUED)
    ledger.dispose()
    assert {(job.state, job.status, job.attempt) for job in jobs} == {(JobState.DONE, "verified", 1)}
    ended = sorted(job.updated_at for job in jobs)
    seconds = [(after - before).total_seconds() for before, after in pairwise(ended)]  # the first starts the parents
    first, last = statistics.median(seconds[:_AT_AN_END]), statistics.median(seconds[-_AT_AN_END:])
    Figure(
        name="queue-of-200",
        what=f"{_QUEUED} small promotions queued at once: the time of the last over that of the first",
        measured=last / first,
        limit=AT_MOST,
        scale=f"{last:.2f} s; the first {first:.2f} s",
        how=f"median of the last {_AT_AN_END} over that of the first {_AT_AN_END} after the one that starts the "
        "parents; a small PyTorch net into TorchScript, one worker",
    ).record()
