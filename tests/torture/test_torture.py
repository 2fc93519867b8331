"""A short run of `make torture`: some twenty kills over a few promotions, with a seed that a failure names."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

from tests.support.nursery import Nursery
from tests.support.outbox import empty_outbox_of
from tests.support.planted_versions import planted_versions
from tests.support.server import MlflowServer
from tests.torture.bed import Bed
from tests.torture.run import Plan, Result, torture


@pytest.mark.slow
def test_no_promotion_is_lost_or_exported_twice_while_workers_parents_and_children_are_killed(tmp_path):
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 16))
    result = Result(seed, "sqlite", 2)
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as scratch,
        MlflowServer(tmp_path / "server") as server,
        planted_versions(server.uri, tmp_path / "site") as versions,
        Nursery() as nursery,
    ):
        bed = Bed(tmp_path, Path(scratch), nursery, server, None, 2, prefix="short")
        try:
            torture(bed, versions, result, Plan(promotions=6, kills=20, pause_s=0.3, servers=False), "short")
        finally:
            bed.close()
        empty_outbox_of(server.database_uri)
    print(f"SEED={seed}: {result}")
    assert result.findings.all == [], f"SEED={seed}"
    assert result.promotions >= 6
    assert result.kills, result  # how many depends on how long the promotions take
